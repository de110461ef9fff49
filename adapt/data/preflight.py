"""What is known of the data before step 1: what each source gives, how much is cut, and what the model will see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.data.stream import PackedSource, Stream
    from adapt.display import Display

EXAMPLE_TOKENS = 120
Part = tuple[str, bool]


@dataclass(frozen=True)
class SourceReport:
    """What one source gives. Shares are of its tokens; `tokens` and `documents` are those of one epoch.

    `joined` documents have a token that crosses from the prompt into the answer. `example` is the beginning of the
    first row that the run reads from it, in parts of equal fate: text, and whether the model is trained to write it.
    """

    source: str
    documents: int
    held_out: int
    tokens: int
    bytes_per_token: float
    truncated: float
    loss_share: float
    epochs: float
    joined: int
    example: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "example": [list(part) for part in self.example]}


def preflight(stream: Stream, tokenizer: Any) -> list[SourceReport]:
    """A report of each source. Raises AdaptError where one would train nothing."""
    return [_report(stream, index, source, tokenizer) for index, source in enumerate(stream.sources)]


def _report(stream: Stream, index: int, source: PackedSource, tokenizer: Any) -> SourceReport:
    counts, packed = source.store.counts, int(source.packing.lengths.sum())
    trained = source.trained_tokens
    if not trained:
        raise AdaptError(
            f"source '{source.name}' would train nothing: none of its {counts.tokens:,} tokens carries loss"
        )
    rows = np.flatnonzero(stream.schedule.source == index)
    first = int(stream.schedule.sequence[rows[0]]) if len(rows) else 0
    return SourceReport(
        source=source.name,
        documents=counts.documents,
        held_out=counts.held_out,
        tokens=counts.tokens,
        bytes_per_token=counts.bytes / counts.tokens,
        truncated=source.truncated / counts.tokens,
        loss_share=trained / packed,
        epochs=stream.tokens_of(source.name) / packed,
        joined=counts.joined,
        example=example(source.row(first), tokenizer),
    )


def example(row: dict[str, Any], tokenizer: Any, limit: int = EXAMPLE_TOKENS) -> tuple[Part, ...]:
    """The row's first `limit` tokens decoded, in parts with and without loss.

    Decoded from the start each time: a character may be cut between two tokens, and then belongs to the later part.
    """
    ids, labels = row["input_ids"][:limit], row["labels"][:limit]
    parts: list[Part] = []
    end, before = 0, ""
    for trained, run in groupby(labels, key=lambda label: label >= 0):
        end += len(list(run))
        text = tokenizer.decode(ids[:end])
        text = text.rstrip("\ufffd") if end < len(ids) else text
        parts.append((text[len(before) :], trained))
        before = text
    return tuple(part for part in parts if part[0])


def drawn(parts: tuple[Part, ...]) -> str:
    """An example on one line: what the model is trained to write stands in ⟦ ⟧."""
    text = "".join(f"⟦{part}⟧" if trained else part for part, trained in parts)
    return text.replace("\r", "").replace("\n", "⏎")


def show(display: Display, reports: list[SourceReport]) -> None:
    """A table of the sources, and one example of each with its mask."""
    columns = ("source", "documents", "held out", "tokens", "bytes/token", "truncated", "with loss", "epochs")
    rows = [
        (
            report.source,
            report.documents,
            report.held_out,
            report.tokens,
            report.bytes_per_token,
            f"{report.truncated:.1%}",
            f"{report.loss_share:.1%}",
            report.epochs,
        )
        for report in reports
    ]
    display.table("Data", columns, rows)
    for report in reports:
        display.line(f"  {report.source}: {drawn(report.example)}")
        if report.joined:
            display.line(
                f"  {report.source}: in {report.joined:,} of {report.documents:,} documents a token crosses from the "
                "prompt into the answer; end prompts without a space and begin answers with one",
                style="yellow",
            )
    display.line("  The model learns to write what stands in ⟦ ⟧.")
