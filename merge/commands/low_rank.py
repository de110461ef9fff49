"""`adapt merge extract-lora`: a difference of models as a LoRA adapter."""

from __future__ import annotations

from typing import Annotated

import typer

from merge.commands.output import Models, Output, plain_errors, progress_bar


def extract_lora(
    expression: Annotated[str, typer.Argument(metavar="EXPRESSION", help="A difference, such as 'chat - base'.")],
    output: Output,
    models: Models = None,
    rank: Annotated[int, typer.Option("--rank", "-r", min=1, help="The largest rank of a matrix.")] = 16,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Of each matrix only as many ranks as hold this share of its squared norm.", show_default=False
        ),
    ] = None,
    save_whole: Annotated[
        list[str] | None,
        typer.Option(
            help="Also save these whole (modules_to_save): embeddings, norms. May be repeated.", show_default=False
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Tensors at once.", show_default=False)] = None,
) -> None:
    """Write a difference of models as a LoRA adapter, a folder that peft loads.

    Each matrix is cut to its largest singular values; the error |d - BA| / |d| is printed for every kind of module.
    """
    with plain_errors():
        from merge.formula import names_in
        from merge.locations import folders_of, named
        from merge.low_rank import extract_lora as write_adapter

        folders = folders_of(names_in(expression), named(models or []))
        with progress_bar(False) as progress:
            found = write_adapter(expression, folders, output, rank, energy, save_whole or (), threads, progress)
        typer.echo(f"wrote {output}: {expression}, {found['matrices']} matrices of rank {found['ranks']}")
        typer.echo("  module                    share of |d|^2   error |d - BA| / |d|")
        for kind, row in found["kinds"].items():
            typer.echo(f"  {kind:<25} {row['energy']:>13.2%}   {row['error']:.4f}")
        for kind, share in found["left_out"].items():
            typer.echo(f"  {kind:<25} {share:>13.2%}   not of low rank, left out")
        for kind, share in found["saved_whole"].items():
            typer.echo(f"  {kind:<25} {share:>13.2%}   saved whole")
        typer.echo(f"  {'in all':<25} {1:>13.2%}   {found['error']:.4f}")
