"""A recipe from its file to the report."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.display import Display
from adapt.pipeline import Outcome, check_tasks, follow, is_main_process
from adapt.pipeline import run as run_graph
from adapt.recipe.compose import graph_of
from adapt.recipe.load import LoadedRecipe, load


@dataclass(frozen=True)
class Finished:
    """What a run gives back: the stages' folders and manifests, and the page; a dry run writes no page."""

    outcome: Outcome
    report: Path | None


def run(
    recipe: str | Path | Mapping[str, Any] | LoadedRecipe,
    overrides: Sequence[str] = (),
    *,
    until: str | None = None,
    force: Collection[str] = (),
    dry_run: bool = False,
    display: Display | None = None,
) -> Finished:
    """Do what is missing of a recipe, and write its report.

    The recipe is a file, a mapping of what a file would hold, or what `load_recipe` returned. `overrides` are `--set`
    options (`"stages.cpt.tokens=500k"`) for the first two.
    `until`: stop after this stage. `force`: make these stages again. `dry_run`: only say what would be done.
    Under torchrun or accelerate the processes with a rank above 0 take part in the training stages and return nothing.
    Raises RecipeError for a recipe with problems, AdaptError for a failure of the world outside.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not dry_run:
        check_tasks()
    if not is_main_process():
        if not dry_run:
            follow()
        return Finished(Outcome(), None)
    loaded = recipe if isinstance(recipe, LoadedRecipe) else load(recipe, overrides)
    display = display or Display()
    graph = graph_of(loaded)
    outcome = run_graph(graph, display, until=until, force=force, dry_run=dry_run)
    if dry_run:
        return Finished(outcome, None)
    from adapt.report import build, summary

    folders = {name: result.folder for name, result in outcome.stages.items()}
    page = build(graph.folder, graph.recipe, folders, loaded.recipe.description)
    summary(display, folders)
    display.line(f"report: {page}")
    return Finished(outcome, page)
