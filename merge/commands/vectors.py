"""`adapt merge extract | apply | info`: task vectors as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from merge.commands.output import Models, Output, plain_errors, progress_bar


def extract(
    expression: Annotated[str, typer.Argument(metavar="EXPRESSION", help="A difference, such as 'instruct - base'.")],
    output: Output,
    models: Models = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Tensors at once.", show_default=False)] = None,
) -> None:
    """Write a task vector to a folder of its own, in float32.

    It can stand in any later expression: adapt merge 'cpt + 0.8 * residual' cpt=... residual=... -o merged/
    """
    with plain_errors():
        from merge.formula import names_in
        from merge.locations import folders_of, named
        from merge.task_vectors import extract as write_vector

        folders = folders_of(names_in(expression), named(models or []))
        with progress_bar(False) as progress:
            record = write_vector(expression, folders, output, threads, progress)
        typer.echo(f"wrote {output}: {expression}, {len(record['output']['tensors'])} tensors in float32")


def apply(
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="The folder of a task vector or a LoRA adapter.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder or a hub id.")],
    output: Output,
    weight: Annotated[float, typer.Option(help="How much of it.")] = 1.0,
) -> None:
    """Add a task vector or a LoRA adapter to a model: model + weight * vector."""
    with plain_errors():
        from merge.commands.merging import check
        from merge.engine import write
        from merge.locations import folder_of
        from merge.planning import prepare

        folders = {"model": folder_of(model), "vector": folder_of(str(vector))}
        merge = prepare(f"model + {weight!r} * vector", folders)
        check(merge, output, unrelated=False)
        with progress_bar(False) as progress:
            write(merge, output, progress=progress)
        typer.echo(f"wrote {output}: {model} + {weight:g} * {vector}")


def info(vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="The folder of a task vector.")]) -> None:
    """Say what a saved task vector is."""
    with plain_errors():
        from merge.task_vectors import info as info_of

        found = info_of(vector)
        typer.echo(f"{found['expression']}: {found['tensors']} tensors, {found['elements']:,} elements in float32")
        for name, folder in found["models"].items():
            typer.echo(f"  {name}: {folder}")
        typer.echo(f"  norm without embeddings {found['norm_without_embeddings']:.4g}")
        typer.echo(f"  {found['special_rows']} rows of special tokens are held whole")
