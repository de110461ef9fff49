"""A stage with all that it is given, as plain JSON for another process, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adapt.checkpoints import ModelLocation
from adapt.data.sources import AnySource
from adapt.display import quiet
from adapt.launch.world import World
from adapt.log import Silent
from adapt.stages import AnyStage
from adapt.stages.base import Stage, StageContext


def job_of(stage: Stage, context: StageContext) -> dict[str, Any]:
    """The stage and its context."""
    return {
        "stage": stage.model_dump(mode="json"),
        "recipe": context.recipe,
        "name": context.stage,
        "seed": context.seed,
        "folder": str(context.folder),
        "cache": str(context.cache),
        "models": {name: asdict(location) for name, location in context.models.items()},
        "sources": {name: source.model_dump(mode="json") for name, source in context.sources.items()},
        "upstream": {name: str(folder) for name, folder in context.upstream.items()},
    }


def stage_of(job: dict[str, Any]) -> Stage:
    """The stage of a job."""
    return TypeAdapter(AnyStage).validate_python(job["stage"])


def context_of(job: dict[str, Any], world: World, **given: Any) -> StageContext:
    """The context of a job in one of several processes; only the first one shows and logs anything."""
    muted = {} if world.main else {"display": quiet(), "log": Silent(Path(job["folder"]) / "log.jsonl")}
    source = TypeAdapter(AnySource)
    return StageContext(
        recipe=job["recipe"],
        stage=job["name"],
        seed=job["seed"],
        folder=Path(job["folder"]),
        cache=Path(job["cache"]),
        models={name: ModelLocation(**fields) for name, fields in job["models"].items()},
        sources={name: source.validate_python(fields) for name, fields in job["sources"].items()},
        upstream={name: Path(folder) for name, folder in job["upstream"].items()},
        world=world,
        **(given | muted),
    )
