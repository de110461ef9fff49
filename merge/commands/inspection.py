"""`adapt merge inspect`: how large task vectors are, how they lie to each other, and which rows moved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from merge.commands.output import plain_errors
from merge.errors import MergeError

if TYPE_CHECKING:
    from merge.planning import Merge

Arguments = Annotated[
    list[str],
    typer.Argument(metavar="[EXPRESSION] NAME=FOLDER...", help="Models, or an expression and its models."),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The model that the others began from; default: the one named base.", show_default=False
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Write inspection.json and .png here.", show_default=False),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Tensors at once; default: one a core.", show_default=False)]
_PAIR = re.compile(r'[^\s"()=]+=.*')
_SPECIAL_ROWS = 5


def inspect(
    arguments: Arguments,
    base: Base = None,
    output: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Say how large task vectors are and whether they can be added.

    Norms relative to the weights, cosines and sign conflicts, the share of each kind of module, special rows that
    moved, and warnings. Nothing is merged; every model is read once.
    """
    with plain_errors():
        merge = prepared(arguments, base)
        from merge.inspect import inspect as inspected

        report = inspected(merge, threads)
        if not report["vectors"]:
            raise MergeError(f"'{merge.combination.text}' adds no task vector, so there is nothing to inspect")
        if output is not None:
            _write(report, output)
        if as_json:
            typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            _show(report)
            if output is not None:
                typer.echo(f"wrote {output / 'inspection.json'} and {output / 'inspection.png'}")


def prepared(arguments: Sequence[str], base: str | None) -> Merge:
    """The plan of the expression, or of a sum of all models' differences from the base.

    Raises MergeError where the base is not among the models, or where there is nothing beside it.
    """
    from merge.formula import names_in
    from merge.locations import folders_of, named
    from merge.planning import prepare

    first, rest = arguments[0], arguments[1:]
    if _PAIR.fullmatch(first):
        places = named(arguments)
        expression = _all_vectors(places, base)
    elif base is not None:
        raise MergeError(f"--base {base} is for models without an expression; '{first}' says its differences itself")
    else:
        expression, places = first, named(rest)
    return prepare(expression, folders_of(names_in(expression), places))


def _all_vectors(places: Mapping[str, str], base: str | None) -> str:
    """`base + (a - base) + (b - base)`; an adapter or a saved task vector is added as it is."""
    from merge.adapters import is_adapter
    from merge.locations import folder_of
    from merge.task_vectors import is_task_vector

    ground = base or "base"
    if ground not in places:
        hint = "" if base else "; say which model the others began from: --base NAME"
        raise MergeError(f"no model is named '{ground}' (there are {', '.join(places)}){hint}")
    others = [name for name in places if name != ground]
    if not others:
        raise MergeError(f"only '{ground}' is given; name a model that was trained from it too: NAME=FOLDER")
    folders = {name: folder_of(places[name]) for name in others}
    alone = {name for name, folder in folders.items() if is_adapter(folder) or is_task_vector(folder)}
    parts = [f'"{name}"' if name in alone else f'("{name}" - "{ground}")' for name in others]
    return " + ".join([f'"{ground}"', *parts])


def _write(report: Mapping[str, Any], folder: Path) -> None:
    from merge.inspection_plots import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "inspection.json").write_text(text, encoding="utf-8")
        draw(report, folder / "inspection.png")
    except OSError as error:
        raise MergeError(f"cannot write to '{folder}': {error.strerror or error}") from error


def _show(report: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(_vectors(report["vectors"]))
    if report["cosines"]:
        console.print(_pairs(report["cosines"]))
    special = sorted((row for row in report["row_drift"] if row["special"]), key=lambda row: -row["drift"])
    if special and special[0]["drift"] > 0:
        console.print(_rows(special[:_SPECIAL_ROWS]))
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _table(title: str, first: str, columns: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _vectors(vectors: Mapping[str, Any]) -> Any:
    """Relative norms, and the share of each kind of module in the squared norm."""
    kinds = list(dict.fromkeys(kind for vector in vectors.values() for kind in vector["modules"]))
    table = _table("task vectors", "vector", ["norm / weights", "largest layer", *(f"{kind} %" for kind in kinds)])
    for name, vector in vectors.items():
        largest = max(vector["per_layer"], key=lambda point: point["relative_norm"], default=None)
        layer = "" if largest is None else f"{largest['relative_norm']:.3f} (layer {largest['layer']})"
        shares = (f"{100 * vector['modules'][kind]['energy']:.0f}" for kind in kinds)
        table.add_row(name, f"{vector['relative_norm']:.4f}", layer, *shares)
    return table


def _pairs(pairs: Mapping[str, Any]) -> Any:
    """Cosine and sign conflict, and the cosine by kind of module."""
    kinds = list(dict.fromkeys(kind for pair in pairs.values() for kind in pair["modules"]))
    columns = ["cosine", "sign conflict", "furthest layer", *(f"cos {kind}" for kind in kinds)]
    table = _table("pairs", "vectors", columns)
    for name, pair in pairs.items():
        furthest = max(pair["per_layer"], key=lambda point: abs(point["cosine"]), default=None)
        layer = "" if furthest is None else f"{furthest['cosine']:+.3f} (layer {furthest['layer']})"
        cosines = (f"{pair['modules'][kind]['cosine']:+.3f}" for kind in kinds)
        table.add_row(name, f"{pair['cosine']:+.4f}", f"{pair['sign_conflict']:.1%}", layer, *cosines)
    return table


def _rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.text import Text

    table = _table("special tokens that moved most", "token", ["model", "matrix", "moved by (of its norm)"])
    for row in rows:
        table.add_row(Text(row["token"]), row["model"], row["matrix"], f"{row['drift']:.3f}")
    return table
