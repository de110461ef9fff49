"""An expanded vocabulary: how many tokens the text takes before and after, and what the new rows start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapt.display import short
from adapt.report import plots as draw
from adapt.report.blocks import Block, Text, change, facts, table, words
from adapt.report.plots import Plots
from adapt.report.records import Record

_SHOWN = {"base_size", "new_size", "added", "before", "after", "curve", "step0"}


def section(record: Record, plots: Plots) -> list[Block]:
    """Sizes, fertility before and after, the gain over the number of pieces, losses at step 0."""
    metrics = record.metrics
    blocks: list[Block] = []
    if "base_size" in metrics and "new_size" in metrics:
        grown = f"The vocabulary grew from {short(metrics['base_size'])} to {short(metrics['new_size'])} pieces."
        blocks.append(Text(grown))
    blocks += _before_after(metrics.get("before") or {}, metrics.get("after") or {})
    curve = metrics.get("curve") or []
    if len(curve) > 1:
        note = "How much text one token covers, over the number of pieces added. Where it flattens, more do not pay."
        figure = draw.lines({"bytes per token": curve}, "pieces added", "bytes per token")
        blocks.append(plots.image(f"{record.name}-pieces", figure, "What each piece buys", note))
    blocks += _step0(metrics.get("step0") or {})
    return blocks + facts("Further numbers", metrics, leave_out=_SHOWN)


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
