"""A run by what a person calls it: its recipe, its folder, or one of its stages."""

from __future__ import annotations

import re
from pathlib import Path

from adapt.errors import AdaptError
from adapt.pipeline import StageStatus, status
from adapt.pipeline.catalogue import (
    Doomed,
    StageFolder,
    current_keys,
    description,
    newest,
    prunable,
    recipe_file,
    stage_folders,
)
from adapt.recipe import load
from adapt.recipe.compose import graph_of
from adapt.report.runs import RunRecords

_RECIPE = re.compile(r"(?P<file>.+\.ya?ml)(#(?P<stage>.+))?", re.DOTALL)


def find_run(name: str) -> RunRecords:
    """What `name` means: `recipe.yaml`, `recipe.yaml#stage`, a folder `runs/<recipe>`, or a stage's folder below it.

    Raises AdaptError where there is no such run or it has no folder yet.
    """
    match = _RECIPE.fullmatch(name)
    if match and not Path(name).is_dir():
        return _of_recipe(name, Path(match["file"]), match["stage"])
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise AdaptError(f"there is no run '{name}': give a recipe, a folder runs/<recipe>, or a stage's folder in it")
    found = stage_folders(folder)
    if not found:
        raise AdaptError(f"'{name}' holds no run: there is no stage's folder with a manifest.json in it")
    runs = list(dict.fromkeys(one.path.parent.parent for one in found))
    if len(runs) > 1:
        listed = ", ".join(f"'{run}'" for run in runs[:6])
        raise AdaptError(f"'{name}' holds {len(runs)} runs; name one: {listed}")
    return _of_folder(name, runs[0], found)


def _of_recipe(name: str, file: Path, stage: str | None) -> RunRecords:
    loaded = load(file)
    graph = graph_of(loaded)
    if stage is not None:
        graph.stage(stage)
    wanted = [found for found in status(graph) if stage in (None, found.name)]
    stages = {found.name: found.folder for found in wanted if found.folder is not None}
    if not any(folder.is_dir() for folder in stages.values()):
        until = f" --until {stage}" if stage else ""
        raise AdaptError(f"nothing of '{name}' has run yet; first run: adapt run {file}{until}")
    return RunRecords(name, graph.folder, graph.recipe, loaded.recipe.description, stages)


def _of_folder(name: str, run: Path, found: list[StageFolder]) -> RunRecords:
    """The stages with the keys of the last run, else the newest finished ones; one stage's folder stands for itself."""
    whole = Path(name).expanduser().absolute() == run.absolute() or len({one.stage for one in found}) > 1
    keys = current_keys(run) if whole else None
    if keys is not None:
        stages = {stage: run / stage / key for stage, key in keys.items()}
    else:
        stages = {stage: one.path for stage, one in newest(found).items()} or {one.stage: one.path for one in found}
    return RunRecords(name, run, run.name, description(run), stages)


def current(run: Path) -> dict[str, set[str]]:
    """The keys that are needed of a run, by stage: those of its last run, and those of its recipe as it is now.

    Empty where the run is from a version that noted neither.
    """
    found = {stage: {key} for stage, key in (current_keys(run) or {}).items()}
    file = recipe_file(run)
    for stage in [] if file is None else _now(file, run):
        if stage.key is not None:
            found.setdefault(stage.name, set()).add(stage.key)
    return found


def _now(file: Path, run: Path) -> list[StageStatus]:
    """The stages of the recipe as it is now; none where it has problems, or is another recipe by now."""
    try:
        graph = graph_of(load(file))
        return status(graph) if graph.folder.absolute() == run.absolute() else []
    except AdaptError:
        return []  # the keys of the last run count all the same


def to_prune(folder: Path) -> list[Doomed]:
    """What of the runs in a folder nothing needs any more; runs beside it are looked at for what they read of it."""
    found = stage_folders(folder)
    everywhere = [other for runs in {one.path.parent.parent.parent for one in found} for other in stage_folders(runs)]
    needed = {run: keys for run in {one.path.parent.parent for one in found} if (keys := current(run))}
    return list(prunable(found, everywhere, needed))
