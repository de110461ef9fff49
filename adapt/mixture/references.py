"""How a recipe names an adapter or a mixture: a stage, a part of a stage (`cpt/adapter`, `gates/mixture`), a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation

_NAMED = re.compile(r"(?P<name>\w[\w-]*)(?:/(?P<part>adapter|mixture))?")


@dataclass(frozen=True)
class Named:
    """A stage or model of the recipe, and the part of it that is meant (empty: the whole)."""

    name: str
    part: str = ""

    def folder(self, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path], part: str = "") -> Path:
        """Where it lies; `part` is meant where the recipe says none. Raises AdaptError where the stage lacks it."""
        if self.name not in upstream:
            location = models[self.name]
            if location.folder is None or self.part:
                raise AdaptError(f"'{self}' is neither a stage's part nor a folder on the disk")
            return location.folder
        wanted = self.part or part
        folder = upstream[self.name] / (wanted or "model")
        if not folder.is_dir():
            raise AdaptError(f"stage '{self.name}' made no {wanted}; name a stage whose method makes one")
        return folder

    def __str__(self) -> str:
        return f"{self.name}/{self.part}" if self.part else self.name


def location_of(reference: str, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path]) -> ModelLocation:
    """Where a stage's part lies (`gates/mixture`), or the model of that name."""
    from adapt.checkpoints import ModelLocation

    found = named(reference)
    if found is None or not found.part:
        return models[reference]
    return ModelLocation(str(found.folder(models, upstream)))


def plain_location(location: ModelLocation) -> ModelLocation:
    """The model itself, or the base that an adapter or a mixture stands on."""
    from adapt.checkpoints import ModelLocation, read_json

    folder = location.folder
    if folder is None or (folder / "config.json").exists():
        return location
    if (folder / "mixture.json").exists():
        base = read_json(folder / "mixture.json")["base"]
        return ModelLocation(base["path"], base["revision"])
    if any((folder / name).exists() for name in ("adapter_config.json", "embedding_rows.safetensors")):
        from adapt.methods.adapter import base_of

        return ModelLocation(base_of(folder))
    if (folder / "bottleneck_config.json").exists():
        base = read_json(folder / "bottleneck_config.json")["base"]
        return ModelLocation(base["path"], base["revision"])
    return location


def named(reference: str) -> Named | None:
    """What a reference names, or None for a path (`./folder`, `runs/a/b`)."""
    match = _NAMED.fullmatch(reference)
    return Named(match["name"], match["part"] or "") if match else None
