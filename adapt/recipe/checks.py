"""What no single field can show: names, references, cycles, files, and what stages find wrong in themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError, Problem
from adapt.launch.settings import Launch
from adapt.recipe import models
from adapt.recipe.places import Places, dotted
from adapt.recipe.schema import LONGEST_NAME, NAME, ModelSettings
from adapt.recipe.wording import suggestion
from adapt.stages.base import Complaint, Reads, Reference, Stage

SECTIONS = ("models", "data", "stages")


@dataclass(frozen=True)
class Parts:
    """The entries that are valid by themselves, and the names of all, so that one check does not wait for another."""

    models: Mapping[str, ModelSettings]
    sources: Mapping[str, Any]
    stages: Mapping[str, Stage]
    readable: Mapping[str, Stage]
    """All stages whose references can be read, also those with a wrong key elsewhere."""
    names: Mapping[str, Collection[str]]
    launch: Launch | None = None


def problems(parts: Parts, places: Places, file: Path) -> Iterator[Problem]:
    """Everything that is wrong between the parts of a recipe."""
    yield from _names(parts, places)
    reads = {}
    for name, stage in parts.readable.items():
        try:
            reads[name] = stage.reads()
        except AdaptError as error:
            yield places.key(("stages", name), f"stages.{name}: {error}")
    for name, read in reads.items():
        yield from _references(name, read, parts, places)
    yield from _cycles(reads, places)
    for name, stage in parts.stages.items():
        yield from _complaints(name, stage, reads.get(name, Reads()), parts, places)
    yield from _unfit(parts, places)
    yield from _missing_files(parts, places, file)


def _names(parts: Parts, places: Places) -> Iterator[Problem]:
    for section in SECTIONS:
        for name in parts.names[section]:
            if not NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
                message = f"'{name}' is not usable as a name; use letters, digits, '_' and '-', not '-' first"
                yield places.key((section, name), f"{section}: {message}")
    for name in parts.names["stages"]:
        if name in parts.names["models"]:
            message = f"stages: '{name}' is also a model's name; what refers to it would mean two things, rename one"
            yield places.key(("stages", name), message)


def _references(stage: str, reads: Reads, parts: Parts, places: Places) -> Iterator[Problem]:
    known = list(dict.fromkeys([*parts.names["models"], *parts.names["stages"]]))
    for reference in reads.models:
        message = _model_message(stage, reference, known, parts)
        if message is not None:
            yield _at(stage, reference, message, places)
    for reference in reads.sources:
        if reference.name not in parts.names["data"]:
            known_sources = suggestion(reference.name, parts.names["data"], "data has no sources")
            yield _at(stage, reference, f"there is no source '{reference.name}' under data{known_sources}", places)


def _model_message(stage: str, reference: Reference, known: list[str], parts: Parts) -> str | None:
    name, part = reference.name, reference.part
    if name == stage and name not in parts.names["models"]:
        return f"stage '{stage}' refers to itself"
    if name not in known:
        others = [other for other in known if other != stage]
        return f"there is no model or stage '{name}'{suggestion(name, others, 'the recipe has no models')}"
    made_by = parts.readable.get(name)
    if made_by is not None and not made_by.makes_model:
        return f"stage '{name}' ({getattr(made_by, 'kind', '')}) makes no model"
    if part and made_by is not None and part not in made_by.parts:
        return f"stage '{name}' makes no {part}" + (f", but {' and '.join(made_by.parts)}" if made_by.parts else "")
    return None


def _at(stage: str, reference: Reference, message: str, places: Places) -> Problem:
    """A problem where the name stands: as a value, or as a key (of a mixture)."""
    path = places.written(("stages", stage, *reference.path))
    is_key = bool(reference.path) and reference.path[-1] == reference.name
    return (places.key if is_key else places.value)(path, f"{dotted(path)}: {message}")


def _cycles(reads: Mapping[str, Reads], places: Places) -> Iterator[Problem]:
    """One problem for each circle, at the reference that closes it."""
    reported: set[frozenset[str]] = set()
    done: set[str] = set()

    def follow(name: str, trail: tuple[str, ...]) -> Iterator[Problem]:
        for reference in reads[name].models:
            target = reference.name
            if target in trail:
                circle = (*trail[trail.index(target) :], target)
                if len(circle) > 2 and frozenset(circle) not in reported:
                    reported.add(frozenset(circle))
                    message = f"stages refer to each other in a circle: {' -> '.join(circle)}"
                    yield _at(name, reference, message, places)
            elif target in reads and target not in done:
                yield from follow(target, (*trail, target))
        done.add(name)

    for start in reads:
        if start not in done:
            yield from follow(start, (start,))


def _complaints(stage: str, settings: Stage, reads: Reads, parts: Parts, places: Places) -> Iterator[Problem]:
    complete = all(reference.name in parts.sources for reference in reads.sources)
    try:
        for complaint in settings.complaints(parts.sources):
            path = places.written(("stages", stage, *complaint.path))
            yield places.value(path, f"{dotted(path)}: {complaint.message}")
    except AdaptError as error:
        yield places.key(("stages", stage), f"stages.{stage}: {error}")
    except KeyError:
        if complete:
            raise  # not about a source that another problem already reports


def _unfit(parts: Parts, places: Places) -> Iterator[Problem]:
    """What several processes cannot do together."""
    if parts.launch is not None:
        for key, message in parts.launch.conflicts():
            yield places.value(("launch", key), f"launch.{key}: {message}")
    for name, stage in parts.stages.items():
        launch, own = stage.launched(parts.launch), getattr(stage, "launch", None)
        complaints = [Complaint(("launch", key), message) for key, message in (launch.conflicts() if own else ())]
        complaints += stage.unfit(launch) if launch.processes > 1 else ()
        for complaint in complaints:
            path = places.written(("stages", name, *complaint.path))
            yield places.value(path, f"{dotted(path)}: {complaint.message}")


def _missing_files(parts: Parts, places: Places, file: Path) -> Iterator[Problem]:
    for name, source in parts.sources.items():
        for message in source.missing():
            yield places.value(("data", name), f"data.{name}: {message}")
    for name, model in parts.models.items():
        if models.stage_of_recipe(model, file) is None:
            message = models.complaint(model, file)
            if message is not None:
                yield places.value(("models", name), f"models.{name}: {message}")
