"""An export: how close each written model is to the live one, which was kept, and what was read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapt.display import size_text
from adapt.report.blocks import Block, Cell, Text, facts, share, table
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections import mixture

_SHOWN = {"choice", "formats", "collapse"}
_BASES = {
    "plain": "the model as it is",
    "original": "the weights on the disk, with the adapter added",
    "dequantised": "the weights that the 4 bits stand for, with the adapter added",
    "corrected": "the weights on the disk, with the adapter and a part of the 4 bits' error added",
}


def section(record: Record, plots: Plots) -> list[Block]:
    """The choice of the base, the correction, the files."""
    metrics = record.metrics
    choice, formats = metrics.get("choice") or {}, metrics.get("formats") or {}
    return [
        *mixture.collapsed(metrics),
        *_choice(choice),
        *_correction(choice.get("correction") or {}),
        *_gguf(formats.get("gguf") or {}),
        *facts("Files", {name: found for name, found in formats.items() if name != "gguf"}),
        *facts("Further numbers", metrics, leave_out=_SHOWN),
    ]


def _choice(choice: Mapping[str, Any]) -> list[Block]:
    measured = choice.get("measured") or {}
    rows = [_row(name, values, name == choice.get("written")) for name, values in measured.items()]
    live = (choice.get("live") or {}).get("bits_per_byte")
    if live is not None:
        rows.insert(0, ("the live model", "as it trained", "", "", f"{live:.4f}", ""))
    note = (
        "Each way to write the model was loaded again and read the same text as the live model, the adapter over the "
        "base that it trained on. Less divergence (nats per token) and more equal first choices are closer to it."
    )
    note += f" The recipe asks for: {choice['asked']}." if "asked" in choice else ""
    moved = choice.get("moved")
    more = [Text(f"The weights that it trained around are not on the disk: {moved}.", "warning")] if moved else []
    columns = ("written", "what it is", "divergence", "same first choice", "bits per byte", "")
    return [table("Written models beside the live one", columns, rows, note), *more] if rows else []


def _row(name: str, values: Mapping[str, float], written: bool) -> tuple[Any, ...]:
    bits = values.get("bits_per_byte")
    kept = Cell("written", "good") if written else ""
    said = "" if bits is None else f"{bits:.4f}"
    return name, _BASES.get(name, ""), f"{values['kl']:.2e}", share(values["top1_agreement"]), said, kept


def _correction(correction: Mapping[str, float]) -> list[Block]:
    if not correction:
        return []
    text = (
        f"The 4 bits are off by {correction['error']:.1%} of the weights' norm; with {correction['rank']:.0f} "
        f"directions of that in the adapter, {correction['left']:.1%} of the error is left."
    )
    return [Text(text)]


def _gguf(files: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    rows = [
        (
            found["file"],
            size_text(found["bytes"]),
            ", ".join(f"{count} {kind}" for kind, count in found["tensors"].items()),
            found["tokens"],
            found["texts"],
        )
        for found in files.values()
    ]
    note = (
        "Read back and compared: every tensor with the checkpoint's (the same bits after rounding, or within the error "
        "of 8-bit blocks), every token with the tokenizer's, and how texts are cut."
    )
    warnings = dict.fromkeys(warning for found in files.values() for warning in found.get("warnings") or ())
    blocks: list[Block] = [Text(f"Warning: {warning}.", "warning") for warning in warnings]
    columns = ("file", "size", "tensors", "tokens", "texts")
    return [*blocks, table("GGUF", columns, rows, note)] if rows else []
