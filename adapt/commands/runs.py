"""`adapt runs`: what lies below `runs/`, and what of it may go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.commands.errors import plain_errors
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.display import Display
    from adapt.pipeline.catalogue import Doomed, StageFolder

EPILOG = "Example: adapt runs, then: adapt runs --prune"


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="All runs, or one of them.")] = Path("runs"),
    prune: Annotated[bool, typer.Option("--prune", help="Delete what no recipe needs; shows it and asks.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --prune: do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the stages' folders: state, size, when, and their main numbers.

    With --prune go folders, finished or not, of other settings than those of the last run and of the recipe as it is,
    and replaced ones. What another run read as a model stays; a run that is going on is not touched.
    """
    with plain_errors():
        from adapt.display import Display
        from adapt.pipeline.catalogue import stage_folders

        if not folder.is_dir():
            raise AdaptError(f"there is no folder '{folder}'; recipes write to runs/ in the folder that adapt runs in")
        found = stage_folders(folder)
        if as_json:
            typer.echo(json.dumps([_plain(one) for one in found], ensure_ascii=False, indent=2))
            return
        display = Display()
        if not prune:
            _show(found, folder, display)
            return
        from adapt.runs import to_prune

        _prune(to_prune(folder), yes, display)


def _plain(folder: StageFolder) -> dict[str, object]:
    return {
        "recipe": folder.recipe,
        "stage": folder.stage,
        "key": folder.key,
        "state": folder.state,
        "bytes": folder.size,
        "when": folder.when,
        "folder": str(folder.path),
        "numbers": _numbers(folder),
    }


def _show(found: Sequence[StageFolder], folder: Path, display: Display) -> None:
    from adapt.display import size_text

    if not found:
        display.line(f"nothing has run yet in '{folder}'")
        return
    rows = [
        [one.recipe, one.stage, one.key, one.state, size_text(one.size), _time(one.when), _numbers(one)]
        for one in found
    ]
    columns = ("recipe", "stage", "key", "state", "size", "when", "numbers")
    display.table(f"runs in {folder}: {size_text(sum(one.size for one in found))}", columns, rows)


def _numbers(folder: StageFolder) -> str:
    from adapt.pipeline.headline import headline
    from adapt.report.records import read_record
    from adapt.report.terminal import headline as result

    if folder.state != "finished":
        return ""
    return result(read_record(folder.stage, folder.path)) or headline(folder.manifest.get("metrics") or {})


def _time(when: str) -> str:
    """`2026-11-21 12:48` of an ISO time."""
    return when[:16].replace("T", " ")


def _prune(doomed: Sequence[Doomed], yes: bool, display: Display) -> None:
    from adapt.display import size_text
    from adapt.pipeline.catalogue import prune

    if not doomed:
        display.line("nothing to delete: every folder is needed")
        return
    rows = [[str(one.folder.path), size_text(one.folder.size), one.reason] for one in doomed]
    total = size_text(sum(one.folder.size for one in doomed))
    display.table(f"to delete: {total}", ("folder", "size", "why"), rows)
    if not yes and not typer.confirm("Delete these folders?"):
        display.line("nothing was deleted")
        return
    display.line(f"deleted {len(doomed)} folders, {size_text(prune(doomed))}")
