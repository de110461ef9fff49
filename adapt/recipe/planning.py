"""The plan of a recipe, from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.recipe.compose import graph_of
from adapt.recipe.load import LoadedRecipe, load

if TYPE_CHECKING:
    from adapt.pipeline import Graph
    from adapt.planning import RecipePlan


def plan(
    recipe: str | Path | Mapping[str, Any] | LoadedRecipe,
    overrides: Sequence[str] = (),
    *,
    gpu: str | None = None,
    throughput: float | None = None,
) -> RecipePlan:
    """Memory, time and disk of every stage, from configurations and files' sizes only: nothing is loaded or fetched.

    `gpu` is a name (`rtx4090`) or an amount of memory (`24GB`); without it the plan is for this machine. `throughput`
    in tokens a second; without it that of the recipe's last run of a stage on this machine, else what the GPU's data
    sheet and a stated share of it give. Raises RecipeError for a recipe with problems, AdaptError for a model whose
    shape is known nowhere here and for a GPU that is none.
    """
    from adapt.planning.gpus import gpu_of
    from adapt.planning.recipe import Planner, RecipePlan

    if throughput is not None and not throughput > 0:
        raise AdaptError(f"--throughput is {throughput:g}; give the tokens that are trained in a second, above 0")
    loaded = recipe if isinstance(recipe, LoadedRecipe) else load(recipe, overrides)
    named = gpu_of(gpu) if gpu is not None else None
    graph, device = graph_of(loaded), "cuda" if named else _device()
    speeds = {} if named else _speeds(graph)
    planner = Planner(graph.stages, graph.models, graph.sources, named, device, throughput, speeds)
    return RecipePlan(loaded.recipe.name, device, named, planner.plans())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _speeds(graph: Graph) -> dict[str, float]:
    """Tokens a second of the newest finished run of each stage, from its manifest."""
    from adapt.pipeline import read_manifest

    found: dict[str, tuple[str, float]] = {}
    for path in sorted(graph.folder.glob("*/*/manifest.json")):
        try:
            manifest = read_manifest(path.parent)
        except AdaptError:
            continue  # it only serves to say how fast an earlier run was
        speed = (manifest.get("metrics") or {}).get("tokens_per_second")
        finished = str((manifest.get("times") or {}).get("finished", ""))
        name = path.parent.parent.name
        if speed and finished >= found.get(name, ("", 0.0))[0]:
            found[name] = finished, float(speed)
    return {name: speed for name, (_, speed) in found.items()}
