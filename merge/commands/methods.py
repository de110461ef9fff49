"""`adapt merge methods`: what can be called in an expression, with every parameter."""

from __future__ import annotations

from typing import Annotated

import typer

from merge.commands.output import plain_errors
from merge.errors import MergeError


def methods(name: Annotated[str | None, typer.Argument(help="Only this method.", show_default=False)] = None) -> None:
    """List the methods and their parameters."""
    with plain_errors():
        from merge.methods import METHODS
        from merge.parameters import nearest

        if name is not None and name not in METHODS:
            raise MergeError(f"there is no method '{name}'; {nearest(name, METHODS)}")
        for key, method in METHODS.items():
            if name in (None, key):
                typer.echo(f"{key}: {_what_it_does(method.__doc__ or '')}")
                for parameter in method.parameters:
                    shown = "required" if parameter.required else parameter.default
                    each = ", for each model" if parameter.each else ""
                    typer.echo(f"    {parameter.name} ({shown}{each}): {parameter.doc}")


def _what_it_does(doc: str) -> str:
    """A method's first paragraph, with the formula behind it where the sentence goes on there."""
    first, *others = (" ".join(paragraph.split()) for paragraph in doc.strip().split("\n\n"))
    while others and not first.endswith((".", "`")):
        first = f"{first} {others.pop(0)}"
    return first
