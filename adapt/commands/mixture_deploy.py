"""`adapt mixture collapse`: a mixture as one plain checkpoint, with what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from adapt.commands.errors import plain_errors

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The mixture's folder.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The new folder.", show_default=False)]
Text = Annotated[Path, typer.Option("--text", metavar="FILE", help="Text to average the gates over and to measure on.")]


def collapse(
    folder: Folder,
    output: Output,
    text: Text,
    by: Annotated[
        Literal["average", "ties", "svd"],
        typer.Option(help="The mean gates; these and TIES; or these cut to one LoRA, which is written too."),
    ] = "average",
    rank: Annotated[int, typer.Option("--rank", "-r", min=1, help="The rank of svd's LoRA.")] = 16,
    density: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The share of each adapter's numbers that ties keeps.")
    ] = 0.2,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base, where it lies elsewhere by now.", show_default=False)
    ] = None,
    size: Annotated[int, typer.Option("--bytes", min=1, help="How much of the text is read.")] = 20_000,
) -> None:
    """Write a mixture as a plain checkpoint.

    Gates that depend on the token cannot be folded into weights; their means over a text can. What is lost by that is
    measured on the same text: KL of a token to the live mixture, equal first choices, bits per byte.
    """
    with plain_errors():
        from adapt.display import Display
        from adapt.mixture.collapse import Way
        from adapt.mixture.deployment import COLUMNS, collapse_folder, lines, text_file

        source = text_file(text)
        found = collapse_folder(folder, output, Way(by, rank, density), source, size, base)
        Display().table(f"{output}: measured on {text}", list(COLUMNS), lines(found))
        if by == "svd":
            typer.echo(f"wrote {output} and {output / 'adapter'}: rank {rank} holds {1 - found['lost']:.1%} of the sum")
        else:
            typer.echo(f"wrote {output}")
