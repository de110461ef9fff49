"""What the commands share: one line for a mistake, progress, sizes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from merge.errors import MergeError

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME=FOLDER...", help="Where each model is: a folder or a hub id.", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The new folder.", show_default=False)]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)


@contextmanager
def plain_errors(again: str = "the same command") -> Iterator[None]:
    """Show a user's mistake as one line on standard error, without a traceback; the exit code is 1."""
    try:
        yield
    except MergeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"stopped; what is finished is kept, go on with: {again}", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone (`| head`)
        raise typer.Exit(0) from None


def size_of(text: str) -> int:
    """Bytes of a size such as `5GB` or `500M`. Raises MergeError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    factor = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    size = int(float(match[1]) * factor[match[2].lower()]) if match else 0
    if size <= 0:
        raise MergeError(f"'{text}' is no size; write for example 5GB or 500MB")
    return size


def shown_size(count: float) -> str:
    """Bytes in words."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error that is fed with bytes done and in all; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("merging")
        yield lambda done, total: bar.update(task, completed=done, total=total)
