"""From a file and `--set` options to a checked recipe, or to all of its problems at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adapt.errors import Problem, RecipeError
from adapt.recipe import checks, models
from adapt.recipe.document import Document, parse
from adapt.recipe.overrides import override
from adapt.recipe.places import Places
from adapt.recipe.schema import Recipe
from adapt.recipe.shapes import shape_of
from adapt.recipe.validation import salvaged, validated
from adapt.recipe.wording import quoted, suggestion

IN_PYTHON = "recipe"
"""Stands for the file of a recipe that is none."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe without problems, the file that it came from, and where its values stand."""

    recipe: Recipe
    file: Path
    places: Places


def load(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check the recipe at `path`, with `--set` options (`"stages.cpt.tokens=500k"`) put in first.

    A mapping is a recipe as well: what the file would hold, as plain Python values (numbers, texts, lists, mappings).
    Raises RecipeError with every problem of the file and the options, each with its line and column; those of a mapping
    are counted in the text that its values make as JSON with an indent of two.
    """
    if isinstance(path, Mapping):
        return load_text(_as_text(path), IN_PYTHON, overrides)
    return _load(Path(path), tuple(overrides), ())


def _as_text(recipe: Mapping[str, Any]) -> str:
    try:
        return json.dumps(recipe, indent=2, ensure_ascii=False, default=_plain)
    except ValueError as error:
        raise RecipeError([Problem(IN_PYTHON, 0, 0, f"cannot be written as text: {error}")]) from error


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    message = f"{quoted(value)} is of the type {type(value).__name__}; give numbers, texts, lists and mappings"
    raise RecipeError([Problem(IN_PYTHON, 0, 0, message)])


def load_text(text: str, file: str = "recipe.yaml", overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Like `load`, for a recipe that is not (yet) a file. `file` is the name in messages; paths are relative to it."""
    return _checked(parse(text, file), Path(file), tuple(overrides), ())


def _load(path: Path, overrides: tuple[str, ...], readers: tuple[Path, ...]) -> LoadedRecipe:
    return _checked(parse(_read(path), str(path)), path, overrides, (*readers, path.resolve()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        siblings = sorted(child.name for child in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = suggestion(path.name, siblings)
        raise RecipeError([Problem(str(path), 0, 0, f"there is no such file{hint}")]) from error
    except OSError as error:
        raise RecipeError([Problem(str(path), 0, 0, f"cannot be read: {error.strerror}")]) from error


def _checked(document: Document, file: Path, overrides: tuple[str, ...], readers: tuple[Path, ...]) -> LoadedRecipe:
    value, places = document.value, document.places
    if not isinstance(value, dict):
        what = "the file is empty" if value is None else f"{quoted(value)} is no recipe"
        raise RecipeError([places.value((), f"{what}; a recipe is a mapping with the keys {', '.join(_keys())}")])
    found = override(document, overrides, shape_of(Recipe))
    recipe, problems = validated(Recipe, value, (), places)
    parts = _parts(recipe, value, places, file.parent)
    found += problems
    found += checks.problems(parts, places, file)
    found += _other_recipes(parts.models, places, file, readers)
    if found or recipe is None:
        raise RecipeError(list(dict.fromkeys(found)))
    return LoadedRecipe(recipe, file, places)


def _keys() -> list[str]:
    return list(Recipe.model_fields)


def _parts(recipe: Recipe | None, value: dict[str, Any], places: Places, folder: Path) -> checks.Parts:
    """The valid entries of each section, also of a recipe that is not valid as a whole."""
    sections = {section: value.get(section) for section in checks.SECTIONS}
    names = {section: tuple(entries) if isinstance(entries, dict) else () for section, entries in sections.items()}
    if recipe is not None:
        entries, readable = (recipe.models, recipe.data, recipe.stages), recipe.stages
    else:
        entries = tuple(_valid(section, sections[section], places) for section in checks.SECTIONS)
        readable = _readable(sections["stages"])
    sources = {name: source.relative_to(folder) for name, source in entries[1].items()}
    stages = {name: stage.relative_to(folder) for name, stage in entries[2].items()}
    launch = recipe.launch if recipe is not None else None
    return checks.Parts(entries[0], sources, stages, readable, names, launch)


def _valid(section: str, entries: Any, places: Places) -> dict[str, Any]:
    if not isinstance(entries, dict):
        return {}
    kind = _kind_of_entry(section)
    settings = {name: validated(kind, entry, (section, name), places)[0] for name, entry in entries.items()}
    return {name: entry for name, entry in settings.items() if entry is not None}


def _readable(stages: Any) -> dict[str, Any]:
    entries = stages if isinstance(stages, dict) else {}
    settings = {name: salvaged(_kind_of_entry("stages"), entry) for name, entry in entries.items()}
    return {name: stage for name, stage in settings.items() if stage is not None}


def _kind_of_entry(section: str) -> Any:
    """The annotation of what stands under a name in a section."""
    return get_args(Recipe.model_fields[section].annotation)[1]


def _other_recipes(
    entries: Mapping[str, Any], places: Places, file: Path, readers: tuple[Path, ...]
) -> Iterator[Problem]:
    """Problems with models that are stages of other recipes."""
    for name, settings in entries.items():
        other = models.stage_of_recipe(settings, file)
        message = _other_message(other, readers) if other is not None else None
        if message is not None:
            yield places.value(("models", name), f"models.{name}: {message}")


def _other_message(other: models.StageOfRecipe, readers: tuple[Path, ...]) -> str | None:
    if other.file.resolve() in readers:
        trail = " -> ".join(path.name for path in (*readers, other.file))
        return f"recipes refer to each other in a circle: {trail}"
    try:
        stages = _load(other.file, (), readers).recipe.stages
    except RecipeError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        return f"the recipe that it refers to has a problem: {error.problems[0]}{more}"
    if other.stage not in stages:
        return f"'{other.file}' has no stage '{other.stage}'{suggestion(other.stage, stages)}"
    if not stages[other.stage].makes_model:
        return f"stage '{other.stage}' of '{other.file}' makes no model"
    return None
