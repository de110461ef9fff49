"""Writes a recipe with comments, all of which are the descriptions of the settings' fields."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError
from adapt.recipe.schema import Recipe
from adapt.recipe.shapes import Shape, decided, shape_of
from adapt.recipe.show import to_yaml
from adapt.recipe.starters import STARTERS

_WIDTH = 110
_LEAST_WIDTH = 40
_INDENT = "  "


def starter(kind: str) -> str:
    """The commented recipe of that kind, a key of `STARTERS`."""
    return commented(STARTERS[kind])


def write_starter(kind: str, path: Path) -> None:
    """Write the commented recipe to `path`. Raises AdaptError where there is something already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(kind))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise AdaptError(f"'{path}' is there already and is not overwritten; choose another name with -o") from error
    except OSError as error:
        raise AdaptError(f"'{path}' cannot be written: {error.strerror}") from error


def commented(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML; above each key stands what it means, the first time that it occurs."""
    return "\n".join(_lines(recipe, shape_of(Recipe), "", set())).lstrip("\n") + "\n"


def _lines(values: Mapping[str, Any], shape: Shape | None, indent: str, told: set[Any]) -> Iterator[str]:
    """A mapping's lines: comments and keys, and at its end which other keys it could have."""
    for key, value in values.items():
        below = shape.item(key) if shape is not None else None
        if not indent:
            yield ""
        yield from _meaning(key, value, shape, below, indent, told)
        if isinstance(value, Mapping) and not _on_one_line(value, below):
            yield f"{indent}{key}:"
            yield from _lines(value, decided(below, value), indent + _INDENT, told)
        else:
            yield textwrap.indent(to_yaml({key: value}).rstrip("\n"), indent)
    if shape is not None and shape.fields and indent:
        yield from _others(values, shape, indent, told)


def _meaning(
    key: str, value: Any, shape: Shape | None, below: Shape | None, indent: str, told: set[Any]
) -> Iterator[str]:
    """The comment above a key: its field's description; for a name that a person chose, that of its settings."""
    if shape is not None and shape.fields:
        subject, text = (shape.core, key), shape.fields[key].description
        if key == "kind":
            subject, text = shape.core, text_of(shape)
    else:
        chosen = decided(below, value)
        subject, text = (chosen.core, text_of(chosen)) if chosen is not None and chosen.fields else (None, None)
    if text and subject not in told:
        told.add(subject)
        yield from _comment(text, indent)


def text_of(shape: Shape) -> str:
    """The first paragraph of a settings class's description."""
    return (shape.core.__doc__ or "").strip().split("\n\n")[0]


def _others(values: Mapping[str, Any], shape: Shape, indent: str, told: set[Any]) -> Iterator[str]:
    others = [key for key in shape.fields if key not in values]
    if others and (shape.core, None) not in told:
        told.add((shape.core, None))
        yield from _comment(f"Further keys: {', '.join(others)}.", indent)


def _comment(text: str, indent: str) -> list[str]:
    width = max(_LEAST_WIDTH, _WIDTH - len(indent) - 2)
    return [f"{indent}# {line}" for line in textwrap.wrap(" ".join(text.split()), width, break_long_words=False)]


def _on_one_line(value: Mapping[str, Any], shape: Shape | None) -> bool:
    """A few names that a person chose with plain values, such as a mixture."""
    return shape is not None and shape.open and to_yaml({"": value}).count("\n") == 1
