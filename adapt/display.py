"""What the terminal shows: one rich progress display where there is a terminal, plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table


def short(value: Any) -> str:
    """A number as a person reads it: four significant digits, thousands grouped."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


class Task:
    """One bar of the display, or a line every tenth of the way where there is no terminal."""

    def __init__(self, console: Console, progress: Progress | None, title: str, total: int) -> None:
        self._console, self._progress, self._title, self._total = console, progress, title, max(1, total)
        self._next_line = 0.0
        self._bar = progress.add_task(title, total=self._total, numbers="") if progress else None

    def update(self, done: int, **numbers: Any) -> None:
        """Show that `done` of the total is reached, with the latest numbers beside it."""
        text = "  ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in numbers.items())
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=done, numbers=text)
        elif done / self._total >= self._next_line:
            self._next_line = min(1.0, (int(done / self._total * 10) + 1) / 10)
            self._console.print(f"  {self._title} {done:,}/{self._total:,}  {text}", highlight=False)


class Display:
    """Lines, tables and progress on standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    def line(self, text: str, style: str | None = None) -> None:
        """Print one line; `[` is printed as it is."""
        self.console.print(text, style=style, markup=False, highlight=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; numbers are aligned to the right and shortened."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            numeric = all(isinstance(row[index], (int, float, type(None))) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*("" if cell is None else short(cell) for cell in row))
        self.console.print(table, markup=False)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Task]:
        """A bar with numbers and the time left, for as long as the block runs."""
        if not self.console.is_terminal:
            yield Task(self.console, None, title, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        with Progress(*columns, console=self.console, transient=False) as progress:
            yield Task(self.console, progress, title, total)
