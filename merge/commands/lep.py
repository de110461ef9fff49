"""`adapt merge lep`: the embeddings of a continued pre-training with a grown vocabulary, in the instruct model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from merge.commands.merging import (
    Device,
    DryRun,
    Dtype,
    Quiet,
    ShardSize,
    Threads,
    Unrelated,
    check,
    learned,
    on_device,
)
from merge.commands.output import Models, Output, plain_errors, progress_bar, size_of
from merge.errors import MergeError

NAMES = ("cpt", "base", "instruct")
Mode = Annotated[
    Literal["conversion", "overlap", "swap"],
    typer.Option(help="What the map is learned from: the grown vocabulary, the shared tokens, or nothing (swap)."),
]
Body = Annotated[
    float, typer.Option(help="How much of cpt - base the other weights get: instruct + body * (cpt - base).")
]
Ridge = Annotated[
    float, typer.Option(min=0.0, help="Draw the map towards the identity; needed where it is not determined.")
]


def lep(
    output: Output,
    models: Models = None,
    mode: Mode = "conversion",
    body: Body = 1.0,
    ridge: Ridge = 0.0,
    dtype: Dtype = None,
    shard_size: ShardSize = "5GB",
    threads: Threads = None,
    device: Device = None,
    unrelated: Unrelated = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Carry learned embeddings into an instruct model (learned embedding propagation).

    A linear map from the base's rows to the instruct model's is fitted in float64, for embedding and head each, and
    the rows of the continued pre-training are taken through it. Rows of special tokens are the instruct model's.
    """
    with plain_errors():
        from merge.engine import write
        from merge.lep import propagate
        from merge.planning import dtype_of

        plan = propagate(_folders(models or []), dtype_of(dtype) if dtype else None, mode, body)
        plan = on_device(plan, device)
        if not quiet:
            typer.echo(f"{plan.combination.text}  ->  {output}")
            typer.echo(f"  rows: {plan.rows.counts['lep']['mapped']:,} mapped, {plan.rows.counts['special']:,} special")
        check(plan, output, unrelated)
        if dry_run:
            return
        plan = learned(plan, ridge, quiet)
        with progress_bar(quiet) as progress:
            record = write(plan, output, size_of(shard_size), progress, threads)
        if not quiet:
            typer.echo(f"wrote {output} ({record['output']['fingerprint']})")


def _folders(models: list[str]) -> dict[str, Path]:
    from merge.locations import folder_of, named

    places = named(models)
    for name in NAMES:
        if name not in places:
            raise MergeError(f"say where the {name} model is: {name}=FOLDER (needed are {', '.join(NAMES)})")
    unknown = [name for name in places if name not in NAMES]
    if unknown:
        raise MergeError(f"'{unknown[0]}' has no part here; needed are {', '.join(NAMES)}")
    return {name: folder_of(places[name]) for name in NAMES}
