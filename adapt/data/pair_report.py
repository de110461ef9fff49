"""What is known of pairs before step 1: how many are used, what is cut, and what the model will see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.data.preflight import Part, drawn, example

if TYPE_CHECKING:
    from adapt.data.pairs import Pair, PairSource, PairStream
    from adapt.display import Display


@dataclass(frozen=True)
class PairReport:
    """What one source of pairs gives. Shares are of its tokens; `tokens` and `pairs` are those of one epoch.

    `too_long` and `equal` pairs are left out. `example` is the first pair of the run with its chosen answer, in parts
    of equal fate, `rejected` the other answer.
    """

    source: str
    pairs: int
    held_out: int
    too_long: int
    equal: int
    tokens: int
    truncated: float
    loss_share: float
    epochs: float
    joined: int
    example: tuple[Part, ...]
    rejected: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "example": [list(part) for part in self.example]}


def report_pairs(stream: PairStream, tokenizer: Any) -> list[PairReport]:
    """A report of each source."""
    return [_report(stream, index, source, tokenizer) for index, source in enumerate(stream.sources)]


def _report(stream: PairStream, index: int, source: PairSource, tokenizer: Any) -> PairReport:
    rows = np.flatnonzero(stream.schedule.source == index)
    first = source.row(int(stream.schedule.sequence[rows[0]]) if len(rows) else 0)
    kept = int(source.sizes.sum())
    return PairReport(
        source=source.name,
        pairs=len(source),
        held_out=source.store.counts.held_out,
        too_long=source.too_long,
        equal=source.equal,
        tokens=kept,
        truncated=source.truncated / (kept + source.truncated),
        loss_share=source.trained_tokens / kept,
        epochs=stream.tokens_of(source.name) / kept,
        joined=source.store.counts.joined,
        example=example(_labelled(first, "chosen"), tokenizer),
        rejected="".join(text for text, marked in example(_labelled(first, "rejected"), tokenizer) if marked),
    )


def _labelled(row: Pair, side: str) -> dict[str, Any]:
    ids, marks = row[f"{side}_ids"], row[f"{side}_mask"]
    return {"input_ids": ids, "labels": [token if marked else -100 for token, marked in zip(ids, marks, strict=True)]}


def show_pairs(display: Display, reports: list[PairReport]) -> None:
    """A table of the sources, one example of each, and what is cut or left out."""
    columns = ("source", "pairs", "held out", "left out", "tokens", "truncated", "with loss", "epochs")
    rows = [
        (
            report.source,
            report.pairs,
            report.held_out,
            report.too_long + report.equal,
            report.tokens,
            f"{report.truncated:.1%}",
            f"{report.loss_share:.1%}",
            report.epochs,
        )
        for report in reports
    ]
    display.table("Pairs", columns, rows)
    for report in reports:
        display.line(f"  {report.source}: {drawn(report.example)} rather than {drawn(((report.rejected, True),))}")
        if report.too_long or report.equal:
            display.line(
                f"  {report.source}: left out {report.too_long:,} pairs with no answer within the sequence length "
                f"and {report.equal:,} with two equal answers",
                style="yellow",
            )
        if report.truncated:
            display.line(f"  {report.source}: {report.truncated:.1%} of its tokens are cut off", style="yellow")
    display.line("  The model learns to prefer the first of two answers in ⟦ ⟧.")
