"""From a checked recipe to the graph that the pipeline runs."""

from __future__ import annotations

from pathlib import Path

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.pipeline import Graph, status
from adapt.recipe import models
from adapt.recipe.load import LoadedRecipe, load
from adapt.recipe.schema import ModelSettings


def graph_of(loaded: LoadedRecipe) -> Graph:
    """The recipe's stages with their models and sources.

    Raises AdaptError where a model is a stage of another recipe that is not finished yet.
    """
    recipe = loaded.recipe
    locations = {name: location(name, settings, loaded.file) for name, settings in recipe.models.items()}
    sources = {name: source.relative_to(loaded.file.parent) for name, source in recipe.data.items()}
    stages = {name: stage.relative_to(loaded.file.parent) for name, stage in recipe.stages.items()}
    return Graph(
        recipe.name,
        recipe.seed,
        Path(recipe.runs),
        locations,
        sources,
        stages,
        recipe.description,
        loaded.file,
        recipe.launch,
    )


def location(name: str, settings: ModelSettings, file: Path) -> ModelLocation:
    """Where transformers finds the model. Raises AdaptError for another recipe's stage that is not finished."""
    other = models.stage_of_recipe(settings, file)
    if other is not None:
        return ModelLocation(str(_finished(name, other) / "model"), trust_remote_code=settings.trust_remote_code)
    folder = models.folder_of(settings, file)
    path = settings.path if folder is None else str(folder)
    return ModelLocation(path, settings.revision, settings.trust_remote_code)


def _finished(name: str, other: models.StageOfRecipe) -> Path:
    stages = status(graph_of(load(other.file)), until=other.stage)
    found = next(stage for stage in stages if stage.name == other.stage)
    if found.state != "done" or found.folder is None:
        raise AdaptError(
            f"model '{name}' is stage '{other.stage}' of '{other.file}', which is not finished; "
            f"first run: adapt run {other.file} --until {other.stage}"
        )
    return found.folder
