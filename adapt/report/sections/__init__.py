"""What the report says about each kind of stage; adding one is a file and a line in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from adapt.report.blocks import Block, Text, facts
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections import evaluate, expand_vocabulary, export, merge, train

Section = Callable[[Record, Plots], list[Block]]
SECTIONS: Mapping[str, Section] = {
    "train": train.section,
    "expand_vocabulary": expand_vocabulary.section,
    "merge": merge.section,
    "export": export.section,
    "evaluate": evaluate.section,
}


def blocks(record: Record, plots: Plots) -> list[Block]:
    """The section of one stage: by its kind, or its plain numbers where the kind has no section of its own."""
    if record.state == "missing":
        return [Text("This stage has not run yet.")]
    waiting = [Text("This stage has not finished. What it has logged so far:", "warning")]
    head: list[Block] = [] if record.state == "finished" else waiting
    section = SECTIONS.get(record.kind, _plain)
    try:
        return head + section(record, plots)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a manifest of another version, or a number that is NaN: the page says so, and a finished run stays finished
        said = (
            f"Its numbers cannot be shown as a section ({type(error).__name__}: {error}); the manifest below has them."
        )
        return [*head, Text(said, "warning"), *_plain(record, plots)]


def _plain(record: Record, plots: Plots) -> list[Block]:
    return facts("Measured", record.metrics)
