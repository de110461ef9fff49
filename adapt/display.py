"""What the terminal shows: one rich progress display where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

_PLAIN_WIDTH = 120
"""Columns of a table in a file or a pipe, which have no width of their own."""
_PLAIN_SECONDS = 60.0
"""Without a terminal a line comes every tenth of the way, and at least this often if there is news."""
_NAMES = {"bits_per_byte": "bits/byte", "gradient_norm": "gradient norm"}


def short(value: Any) -> str:
    """A number as a person reads it: four significant digits, thousands grouped."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def size_text(count: float) -> str:
    """A number of bytes in the unit that fits: `1.5 GB`. Units are powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration_text(seconds: float) -> str:
    """A time in the two units that matter: `4.2 s`, `2 min 5 s`, `3 h 10 min`, `2 d 4 h`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    for large, small, large_name, small_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large} {large_name} {whole % large // small} {small_name}"
    return f"{whole} s"


def measured(name: str, value: Any) -> str:
    """A named number with its unit: `loss 2.31`, `bits/byte 1.02`, `12,300 tokens/s`, `peak memory 1.5 GB`."""
    words = _NAMES.get(name, name.replace("_", " "))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{words} {value}"
    if name.endswith("_per_second"):
        return f"{short(round(value) if abs(value) >= 100 else value)} {words.removesuffix(' per second')}/s"
    if name.endswith("_bytes"):
        return f"{words.removesuffix(' bytes')} {size_text(value)}"
    if name == "seconds" or name.endswith("_seconds"):
        return f"{words.removesuffix('seconds').strip()} {duration_text(value)}".strip()
    return f"{words} {short(value)}"


class Task:
    """One thing in progress. `update` is all that the work calls."""

    def update(self, done: int, **numbers: Any) -> None:
        """Show that `done` of the total is reached, with the latest numbers beside it."""
        raise NotImplementedError

    @staticmethod
    def _text(numbers: dict[str, Any]) -> str:
        return "  ".join(measured(name, value) for name, value in numbers.items() if value is not None)


class _Bar(Task):
    """A line of the live display."""

    def __init__(self, progress: Progress, title: str, total: int, start: int) -> None:
        self._progress = progress
        self.id = progress.add_task(title, total=max(1, total), completed=start, numbers="")

    def update(self, done: int, **numbers: Any) -> None:
        self._progress.update(self.id, completed=done)
        if numbers:
            self._progress.update(self.id, numbers=self._text(numbers))


class _Lines(Task):
    """A line every tenth of the way, and every minute, where there is no terminal."""

    def __init__(self, display: Display, title: str, total: int, start: int) -> None:
        self._display, self._title, self._total, self._start = display, title, max(1, total), start
        self._next_share, self._next_time = 0.0, 0.0
        self._began = time.monotonic()

    def update(self, done: int, **numbers: Any) -> None:
        now, share = time.monotonic(), done / self._total
        if share < self._next_share and now < self._next_time:
            return
        self._next_share = (int(share * 10) + 1) / 10 if share < 1 else float("inf")
        self._next_time = now + _PLAIN_SECONDS if share < 1 else float("inf")
        made = done - self._start
        left = (now - self._began) / made * (self._total - done) if made > 0 and share < 1 else None
        parts = [f"{self._title} {done:,}/{self._total:,}", self._text(numbers)]
        parts += [f"{duration_text(left)} left"] if left is not None else []
        self._display.line("  " + "  ".join(part for part in parts if part))


def _standard_output() -> Console:
    console = Console(highlight=False)
    if console.is_jupyter:  # plain lines, which a saved notebook keeps; ipykernel asks for colours all the same
        console = Console(highlight=False, force_jupyter=False, force_terminal=False, no_color=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PLAIN_WIDTH
    return console


class Display:
    """Lines, tables and progress on standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _standard_output()
        self._live: Progress | None = None

    def line(self, text: str, style: str | None = None) -> None:
        """Print one line as it is: `[` and `:name:` mean nothing, and a long line is not broken."""
        self.console.print(Text(text, style=style or ""), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; numbers are aligned to the right and shortened, cells that are too wide are folded."""
        table = Table(title=Text(title), title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], (int, float, type(None))) for row in rows)
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else short(cell)) for cell in row))
        self.console.print(table, soft_wrap=False)

    @contextmanager
    def progress(self, title: str, total: int, start: int = 0) -> Iterator[Task]:
        """A bar with numbers and the time left, for as long as the block runs.

        `start`: what was done before (by a run that was killed), so that the time left is reckoned from this run's
        own speed. Inside another block the bar joins that one's display and leaves it at the end.
        """
        if not self.console.is_terminal:
            yield _Lines(self, title, total, start)
        elif self._live is not None:
            bar = _Bar(self._live, title, total, start)
            try:
                yield bar
            finally:
                self._live.remove_task(bar.id)
        else:
            with self._new_live() as live:
                self._live = live
                try:
                    yield _Bar(live, title, total, start)
                finally:
                    self._live = None

    def _new_live(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(overflow="fold", no_wrap=False)),
            console=self.console,
            transient=False,
        )


def quiet() -> Display:
    """A display that shows nothing, for `adapt.run(recipe, display=adapt.quiet())` and its like."""
    return Display(Console(quiet=True, force_terminal=False, force_jupyter=False))
