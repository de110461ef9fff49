"""What a section of the report is made of; `templates/page.html` says how each block looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from adapt.display import short

Tone = Literal["", "good", "bad", "warning"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """A cell with a tone."""

    text: str
    tone: Tone = ""
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under a heading; `note` says in a sentence what they show."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column whether it holds numbers, so that its heading stands to the right as they do."""
        return tuple(
            any(row[index].number for row in self.rows)
            and all(row[index].number or not row[index].text for row in self.rows)
            for index in range(len(self.columns))
        )


@dataclass(frozen=True)
class Image:
    """A plot: its file below the report's folder, the same as a data URI, and what it shows."""

    kind: ClassVar[str] = "image"
    title: str
    file: str
    uri: str
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """A text in parts, each with whether the model is trained to write it."""

    kind: ClassVar[str] = "sample"
    title: str
    parts: tuple[tuple[str, bool], ...]
    note: str = ""


Block = Text | Table | Image | Sample


def cell(value: Any) -> Cell:
    """A value as a reader wants it: numbers shortened and to the right, None as an empty cell."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, (int, float)):
        return Cell(short(value), number=True)
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        return Cell(", ".join(short(item) for item in value))
    return Cell(str(value))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> Table:
    """A table from plain values."""
    return Table(title, tuple(columns), tuple(tuple(map(cell, row)) for row in rows), note)


def words(name: str) -> str:
    """A key as words: `bits_per_byte` as `bits per byte`."""
    return str(name).replace("_", " ")


def facts(title: str, values: Mapping[str, Any], note: str = "", leave_out: Iterable[str] = ()) -> list[Block]:
    """A table of the plain values of a mapping, one a row, nested mappings with their path; nothing for none."""
    rows = [(name, Cell(cell(value).text)) for name, value in _leaves(values, frozenset(leave_out))]
    return [table(title, ("", "value"), rows, note)] if rows else []


def _leaves(values: Mapping[str, Any], leave_out: frozenset[str], path: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if name in leave_out or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, frozenset(), f"{path}{words(name)}: ")
        elif not isinstance(value, (list, tuple)) or (len(value) <= 12 and cell(value).text.count("{") == 0):
            yield path + words(name), value


def records(
    title: str, rows: Sequence[Mapping[str, Any]], note: str = "", leave_out: Iterable[str] = ()
) -> list[Block]:
    """A table of mappings with like keys, one a row; columns in the order in which keys first appear."""
    left_out = set(leave_out)
    columns = list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if name not in left_out and not isinstance(value, Mapping)
        )
    )
    if not rows or not columns:
        return []
    return [
        table(title, [words(name) for name in columns], [[row.get(name) for name in columns] for row in rows], note)
    ]


def change(before: Any, after: Any) -> Cell:
    """The change from one number to another in percent; empty where there is none."""
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)) or not before:
        return Cell("")
    return Cell(f"{100 * (after - before) / before:+.1f}%", number=True)


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.3g}%"
