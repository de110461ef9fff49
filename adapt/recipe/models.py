"""Where the models of a recipe lie: a folder, a hub id, or a finished stage of another recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adapt.recipe.schema import ModelSettings
from adapt.recipe.wording import nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_STAGE = re.compile(r"(?P<file>.+\.ya?ml)#(?P<stage>.*)", re.DOTALL)


@dataclass(frozen=True)
class StageOfRecipe:
    """`other.yaml#stage`: the file as found, and the stage's name."""

    file: Path
    stage: str


def near(path: str, recipe: Path) -> Path:
    """The path below the working directory if something is there, else below the recipe's folder."""
    given = Path(path).expanduser()
    beside = recipe.parent / given
    return beside if not given.exists() and beside.exists() else given


def stage_of_recipe(settings: ModelSettings, recipe: Path) -> StageOfRecipe | None:
    """What `other.yaml#stage` means, or None for a model that is no such thing."""
    match = _STAGE.fullmatch(settings.path)
    return StageOfRecipe(near(match["file"], recipe), match["stage"]) if match else None


def folder_of(settings: ModelSettings, recipe: Path) -> Path | None:
    """The folder that the model lies in, or None for a hub id."""
    folder = near(settings.path, recipe)
    return folder if folder.exists() else None


def complaint(settings: ModelSettings, recipe: Path) -> str | None:
    """What is wrong with a model that is not another recipe's stage, as far as can be seen without the network."""
    path, folder = settings.path, folder_of(settings, recipe)
    if folder is None:
        return None if _HUB_ID.fullmatch(path) and not path.startswith(".") else _not_there(path, recipe)
    if not folder.is_dir():
        return f"'{path}' is a file; name the folder that holds config.json and the weights"
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json", "mixture.json")):
        return f"'{path}' is not a checkpoint: it has no config.json"
    if settings.revision is not None:
        return f"revision '{settings.revision}' is for hub ids, but '{path}' is a folder; remove one of the two"
    return None


def _not_there(path: str, recipe: Path) -> str:
    parent = near(str(Path(path).parent), recipe)
    names = [child.name for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []
    found = nearest(Path(path).name, names)
    hint = f"; did you mean '{(Path(path).parent / found).as_posix()}'?" if found else ""
    return f"there is no folder '{path}', and a hub id has the form owner/name{hint}"
