"""`adapt merge verify OUT`: the hashes of a merged folder and of its inputs, taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from merge.commands.output import plain_errors


def verify(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A merged folder.")]) -> None:
    """Hold a merged folder, and its inputs where they still lie, against the hashes in its merge.json."""
    with plain_errors():
        from merge.verification import verify as verify_folder

        for line in verify_folder(folder):
            typer.echo(line)
