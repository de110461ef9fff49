"""An expanded vocabulary: how many tokens the text takes before and after, and what the new rows start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapt.display import short
from adapt.report import plots as draw
from adapt.report.blocks import Block, Text, change, facts, table, words
from adapt.report.plots import Plots
from adapt.report.records import Record

_SHOWN = {
    *("mode", "base_size", "new_size", "added", "removed", "kept", "auto", "skipped"),
    *("before", "after", "curve", "step0"),
}


def section(record: Record, plots: Plots) -> list[Block]:
    """Sizes, fertility before and after, the gain over the number of pieces, losses at step 0."""
    metrics = record.metrics
    blocks: list[Block] = []
    if "base_size" in metrics and "new_size" in metrics:
        blocks.append(Text(_sizes(metrics)))
    blocks += _before_after(metrics.get("before") or {}, metrics.get("after") or {})
    curve = metrics.get("curve") or []
    if len(curve) > 1:
        note = "How much text one token covers, over the number of pieces added. Where it flattens, more do not pay."
        figure = draw.lines({"bytes per token": curve}, "pieces added", "bytes per token")
        blocks.append(plots.image(f"{record.name}-pieces", figure, "What each piece buys", note))
    blocks += _step0(metrics.get("step0") or {})
    skipped = list((metrics.get("skipped") or {}).items())
    if skipped:
        blocks.append(table("Tokens that were not added", ("token", "why"), skipped))
    return blocks + facts("Further numbers", metrics, leave_out=_SHOWN)


def _sizes(metrics: Mapping[str, Any]) -> str:
    """What became of the vocabulary, in sentences."""
    before, after = short(metrics["base_size"]), short(metrics["new_size"])
    if metrics.get("mode") == "replace":
        kept, new = short(metrics.get("kept")), short(metrics.get("added"))
        return f"A new vocabulary of {after} pieces replaces the one of {before}: {kept} are in both, {new} are new."
    text = f"The vocabulary went from {before} to {after} pieces."
    if metrics.get("removed"):
        added, removed = short(metrics["added"]), short(metrics["removed"])
        text += f" {added} were added, {removed} old ones that text hardly uses taken out."
    auto = metrics.get("auto")
    return text + (f" The size was chosen: {auto['reason']}." if auto else "")


def _before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Block]:
    rows = [
        (words(name), before.get(name), after.get(name), change(before.get(name), after.get(name)))
        for name in dict.fromkeys([*before, *after])
    ]
    note = "Fertility is the number of tokens per word: less is better. Measured on held-out text."
    return [table("Tokens that the text takes", ("", "before", "after", "change"), rows, note)] if rows else []


def _step0(step0: Mapping[str, Any]) -> list[Block]:
    """Bits per byte of each source just before and just after the rows were added."""
    rows = []
    for source, values in step0.items():
        if isinstance(values, Mapping):
            before, after = values.get("before"), values.get("after")
        elif isinstance(values, (list, tuple)) and len(values) == 2:
            before, after = values
        else:
            before, after = None, values
        rows.append((source, before, after, change(before, after)))
    note = "How well text is predicted with the new rows as they were initialised, before any training."
    return [table("Bits per byte at step 0", ("source", "before", "after", "change"), rows, note)] if rows else []
