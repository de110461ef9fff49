"""`adapt merge EXPRESSION NAME=FOLDER... -o OUT`, or a YAML file in the place of the expression."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from merge.commands.output import Models, Output, plain_errors, progress_bar, shown_size, size_of
from merge.errors import MergeError

if TYPE_CHECKING:
    from merge.planning import Merge

What = Annotated[
    str, typer.Argument(metavar="EXPRESSION|FILE.yaml", help="The expression, or a YAML file (ours or mergekit's).")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="The type of the result's weights.", show_default=False),
]
VocabularyFrom = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose vocabulary the result has.", show_default=False)
]
SpecialFrom = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose chat tokens and template it has.", show_default=False)
]
NewRows = Annotated[
    Literal["cpt", "lep-overlap", "lep-conversion"],
    typer.Option(help="Rows of tokens that only the first model has: its own, or carried over by LEP."),
]
ShardSize = Annotated[str, typer.Option(metavar="SIZE", help="The most bytes of a file.")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tensors merged at once; default: one a core. Fewer where they would hold too much.",
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Where to compute: cpu (the default), cuda or cuda:N.", show_default=False),
]
Unrelated = Annotated[
    bool, typer.Option("--unrelated", help="Merge models that do not seem to come from one ancestor.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the headers, print the plan, write nothing.")]
Engine = Annotated[Literal["adapt", "mergekit"], typer.Option(help="Who merges a YAML file.")]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Of a YAML file's random methods; default 0.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]


def write(
    what: What,
    output: Output,
    models: Models = None,
    dtype: Dtype = None,
    vocabulary_from: VocabularyFrom = None,
    special_from: SpecialFrom = None,
    new_rows: NewRows = "cpt",
    shard_size: ShardSize = "5GB",
    threads: Threads = None,
    device: Device = None,
    unrelated: Unrelated = False,
    dry_run: DryRun = False,
    engine: Engine = "adapt",
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Merge checkpoints into a new one.

    An expression adds models and differences of models (cpt + 0.8 * (instruct - base)) and calls methods
    (ties(base, [a: 1, b: 0.5], density=0.3)); adapt merge methods lists these. Everything is checked from the files'
    headers before a tensor is read. A merge that was killed goes on where it stopped.
    """
    with plain_errors():
        if engine == "mergekit":
            _by_mergekit(what, output, models)
            return
        started = time.perf_counter()
        from merge.lep import with_new_rows

        merge = on_device(prepared(what, models or [], dtype, vocabulary_from, special_from, seed), device)
        merge = with_new_rows(merge, new_rows)
        check(merge, output, unrelated)
        if not quiet:
            _show_plan(merge, output, threads, time.perf_counter() - started)
        if dry_run:
            return
        from merge.engine import write as write_merge

        merge = learned(merge, 0.0, quiet)
        with progress_bar(quiet) as progress:
            record = write_merge(merge, output, size_of(shard_size), progress, threads)
        if not quiet:
            typer.echo(f"wrote {output} in {time.perf_counter() - started:.1f} s ({record['output']['fingerprint']})")


def on_device(merge: Merge, name: str | None) -> Merge:
    """The merge on the device that was asked for, else where it was planned."""
    from merge.device import device_of

    return merge if name is None else replace(merge, device=device_of(name))


def learned(merge: Merge, ridge: float, quiet: bool) -> Merge:
    """The merge with its maps of rows fitted, where it has any; a line for each."""
    from merge.lep import learn

    merge = learn(merge, ridge)
    for matrix, maps in {} if quiet else merge.rows.counts.get("lep", {}).get("maps", {}).items():
        for difference, note in maps.items():
            typer.echo(
                f"  {matrix}, {difference}: learned from {note['learned_from']:,} rows of rank {note['rank']:,} "
                f"(condition {note['condition']:.3g}), relative residual {note['residual']:.3g}, "
                f"{note['unexplained']:.1%} of the difference unexplained"
            )
    return merge


def check(merge: Merge, output: Path, unrelated: bool) -> None:
    """What stands in the way of an output; strangers are refused unless `unrelated`."""
    from merge.ancestry import check_ancestry
    from merge.engine import check_output

    check_output(merge, output)
    if not unrelated:
        check_ancestry(merge)


def prepared(
    what: str,
    models: list[str],
    dtype: str | None,
    vocabulary_from: str | None,
    special_from: str | None,
    seed: int | None = None,
) -> Merge:
    """The plan of an expression or of a YAML file."""
    if what.endswith((".yaml", ".yml")):
        if models or dtype or vocabulary_from or special_from:
            raise MergeError(f"'{what}' says all about its merge; write models, dtype and roles into it")
        from merge.yaml_files import prepare_yaml

        return prepare_yaml(Path(what), seed or 0)
    if seed is not None:
        raise MergeError(f"--seed {seed} is for YAML files; in an expression write seed={seed} into the call")
    from merge.locations import folders_of, named
    from merge.planning import dtype_of, prepare

    places = named(models)
    from merge.formula import names_in

    folders = folders_of(names_in(what), places)
    return prepare(what, folders, dtype_of(dtype) if dtype else None, vocabulary_from, special_from)


def _by_mergekit(what: str, output: Path, models: list[str] | None) -> None:
    if models or not what.endswith((".yaml", ".yml")):
        raise MergeError("--engine mergekit takes one of mergekit's YAML files and nothing else")
    from merge.yaml_files import run_mergekit

    run_mergekit(Path(what), output)
    typer.echo(f"mergekit wrote {output}")


def _show_plan(merge: Merge, output: Path, threads: int | None, seconds: float) -> None:
    from merge.engine import free_space
    from merge.preflight import preflight

    plan = preflight(merge, threads)
    rows = merge.rows.counts
    passes = "in one pass" if plan["passes"] == 1 else f"in {plan['passes']} passes at most"
    typer.echo(f"{merge.combination.text}  ->  {output}")
    typer.echo(
        f"  reads {shown_size(plan['read'])} {passes}, writes {shown_size(plan['written'])}, "
        f"{plan['tensors']} tensors; checked in {seconds:.1f} s"
    )
    many = "1 tensor" if plan["threads"] == 1 else f"{plan['threads']} tensors"
    typer.echo(
        f"  holds {shown_size(plan['held'])} at most of {many} at once; {shown_size(free_space(output))} are free"
    )
    special = merge.roles.special_from or "the formula"
    typer.echo(f"  vocabulary of {merge.tokenizer.name}, special and chat tokens of {special}")
    typer.echo(
        f"  rows: {rows['shared'] + rows['partly']:,} by the formula, {rows['anchor_only']:,} only in "
        f"{merge.roles.anchor}, {rows['special']:,} special, {rows['appended']:,} appended, {rows['padding']:,} padding"
    )
    for warning in merge.warnings:
        typer.echo(f"  warning: {warning}")
