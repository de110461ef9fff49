"""Any model by what a person calls it: a checkpoint, an adapter, a mixture, a hub id, a run's stage."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.checkpoints import ModelLocation, load_config
from adapt.errors import AdaptError
from adapt.mixture.live import load_live
from adapt.mixture.references import plain_location
from adapt.pipeline.catalogue import newest, stage_folders
from adapt.recipe.compose import location
from adapt.recipe.models import complaint
from adapt.recipe.schema import ModelSettings

if TYPE_CHECKING:
    import torch

MIXTURE_FILE = "mixture.json"
ADAPTER_FILES = ("adapter_config.json", "embedding_rows.safetensors", "bottleneck_config.json")
Kind = Literal["plain", "adapter", "mixture"]
_WORKING_DIRECTORY = Path("recipe.yaml")
"""Stands for a recipe in the working directory: names on a command line are looked up as that one's would be."""


@dataclass(frozen=True)
class FoundModel:
    """Where a model lies and what it is. `name` is what was asked for."""

    name: str
    kind: Kind
    location: ModelLocation

    def load(self, dtype: torch.dtype | str = "auto") -> tuple[Any, Any]:
        """The model, ready to predict, and its tokenizer. Raises AdaptError where it cannot be loaded."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft still asks by an old name
            return load_live(self.location, dtype)

    def context(self) -> int | None:
        """The positions that the model knows, by its configuration alone; None where that does not say."""
        from adapt.evaluation.bits_per_byte import context_of

        return context_of(load_config(plain_location(self.location)))


def find_model(name: str) -> FoundModel:
    """What `name` means: a checkpoint's, adapter's or mixture's folder, a stage's or run's folder below `runs/`,
    `recipe.yaml#stage`, or a hub id.

    Of several finished folders of one stage the newest is taken. Raises AdaptError, in a line, for everything else.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        inside = _inside(folder, name)
        return FoundModel(name, _kind(inside) or "plain", ModelLocation(str(inside)))
    settings = ModelSettings(path=name)
    if "#" not in name and (message := complaint(settings, _WORKING_DIRECTORY)) is not None:
        raise AdaptError(message)
    found = location(name, settings, _WORKING_DIRECTORY)
    return FoundModel(name, (_kind(found.folder) if found.folder else None) or "plain", found)


def load_any(name: str | Path, dtype: torch.dtype | str = "auto") -> tuple[Any, Any]:
    """The model and the tokenizer of whatever `find_model` finds under a name, in `dtype` (`"auto"`: the stored one).

    model, tokenizer = adapt.load_any("recipes/lang.yaml#chat")
    """
    return find_model(str(name)).load(dtype)


def _kind(folder: Path) -> Kind | None:
    """What a folder holds, or None for nothing that is a model."""
    if (folder / MIXTURE_FILE).is_file():
        return "mixture"
    if (folder / "config.json").is_file():
        return "plain"
    return "adapter" if any((folder / name).is_file() for name in ADAPTER_FILES) else None


def _inside(folder: Path, name: str) -> Path:
    """The folder itself where it is a model, else the model of the stage or of the run that it is the folder of."""
    if _kind(folder) is not None:
        return folder
    if (folder / "model").is_dir() and _kind(folder / "model") is not None:
        return folder / "model"
    stages = [found for found in newest(stage_folders(folder)).values() if _kind(found.path / "model") is not None]
    if len(stages) == 1:
        return stages[0].path / "model"
    if stages:
        raise AdaptError(f"'{name}' holds several models; name one: {_listed(found.path.parent for found in stages)}")
    raise AdaptError(
        f"'{name}' is no model: it has no config.json (a checkpoint), no adapter_config.json (an adapter) "
        f"and no {MIXTURE_FILE} (a mixture)"
    )


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(f"'{path}'" for path in paths)
