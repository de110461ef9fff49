"""The recipe as a whole: its name, its models, its data and its stages."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from adapt.data.sources import AnySource
from adapt.launch.settings import Launch
from adapt.settings import Settings, Whole
from adapt.stages import AnyStage

NAME = re.compile(r"\w[\w-]*")
RECIPE_NAME = re.compile(r"\w[\w.-]*")
LONGEST_NAME = 100


class ModelSettings(Settings):
    """A model that the recipe starts from. A plain string is short for `{path: ...}`."""

    path: str = Field(min_length=1)
    """A hub id (`owner/name`), a folder, or a finished stage of another recipe (`other.yaml#stage`)."""
    revision: str | None = None
    """The commit, tag or branch of a hub id; without it the main branch."""
    trust_remote_code: bool = False
    """Whether Python code that lies beside the weights may run. Off unless you have read that code."""


def model_from_text(value: Any) -> Any:
    """`owner/name` as a short form of `{path: owner/name}`."""
    return {"path": value} if isinstance(value, str) else value


AnyModel = Annotated[ModelSettings, BeforeValidator(model_from_text, json_schema_input_type=str | ModelSettings)]


class Recipe(Settings):
    """One way from a base model to a checkpoint that can be deployed, with the proof of what was gained and lost."""

    name: str
    """The recipe's name; its results lie in a folder of that name below `runs`."""
    description: str = ""
    """What the recipe is for, in a sentence; it heads the report."""
    seed: Annotated[Whole, Field(le=2**32 - 1)] = 17
    """Every random choice of every stage follows from it."""
    runs: str = "runs"
    """The folder for everything that is made, relative to the working directory."""
    models: dict[str, AnyModel] = Field(default_factory=dict)
    """The models to start from, by names of your choice."""
    data: dict[str, AnySource] = Field(default_factory=dict)
    """The sources of text, by names of your choice."""
    launch: Launch | None = None
    """How many processes train together. Empty: one, or those that torchrun or accelerate started."""
    stages: dict[str, AnyStage] = Field(min_length=1)
    """What is done, by names of your choice; a stage's name stands for the model that it makes."""

    @field_validator("name")
    @classmethod
    def _usable_as_folder(cls, name: str) -> str:
        if not RECIPE_NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"'{name}' is not usable as a folder's name; use letters, digits, '_', '-' and '.'")
        return name
