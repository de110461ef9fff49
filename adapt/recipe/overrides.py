"""`--set stages.cpt.tokens=500k`: values from the command line, put where the file would have them."""

from __future__ import annotations

from typing import Any

from adapt.errors import Problem, RecipeError
from adapt.recipe.document import Document, parse
from adapt.recipe.places import Path, dotted, one_line
from adapt.recipe.shapes import Shape, below, decided
from adapt.recipe.wording import quoted, suggestion

HOW = "write --set key.key=value, for example --set stages.cpt.tokens=500k"


def override(document: Document, options: tuple[str, ...], shape: Shape) -> list[Problem]:
    """Put every option's value into the document, in their order; return what is wrong with the options themselves.

    Whether the key is allowed and the value fits is for the checks of the whole recipe to say.
    """
    problems: list[Problem] = []
    for option in options:
        try:
            path, value = read_option(option)
            path = _put(document, path, value, shape, _place(option))
        except RecipeError as error:
            problems.extend(error.problems)
        else:
            document.places.override(path, _place(option))
    return problems


def read_option(option: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as the path and the value, which is read as YAML. Raises RecipeError."""
    place = _place(option)
    key, equals, text = option.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise RecipeError([Problem(place, 0, 0, HOW)])
    try:
        return parts, parse(text, place).value
    except RecipeError as error:
        raise RecipeError([Problem(place, 0, 0, problem.message) for problem in error.problems]) from error


def _place(option: str) -> str:
    return f"--set {one_line(option)}"


def _put(document: Document, parts: tuple[str, ...], value: Any, shape: Shape, place: str) -> Path:
    """Set the value; returns the path with indexes of lists as numbers. Raises RecipeError where there is no way."""
    current, path = document.value, ()
    for part in parts[:-1]:
        element = _element(current, part, path, place)
        if isinstance(current, dict) and current.get(element) is None:
            _may_be_new(document, path, element, shape, place)
            current[element] = {}
        current, path = current[element], (*path, element)
    element = _element(current, parts[-1], path, place)
    current[element] = value
    return (*path, element)


def _element(current: Any, part: str, path: Path, place: str) -> str | int:
    """The key or index that `part` means in what stands at `path`."""
    if isinstance(current, dict):
        return part
    where = f"{dotted(path)} is" if path else "the recipe is"
    if not isinstance(current, list):
        message = f"{where} {quoted(current)}, which has no key '{part}'; set {dotted(path)} as a whole"
        raise RecipeError([Problem(place, 0, 0, message)])
    if not part.isdecimal() or int(part) >= len(current):
        items = f"0 to {len(current) - 1}" if current else "none, it is empty"
        raise RecipeError([Problem(place, 0, 0, f"{where} a list; '{part}' is not one of its indexes ({items})")])
    return int(part)


def _may_be_new(document: Document, path: Path, element: str | int, shape: Shape, place: str) -> None:
    """A mapping may be begun where the schema has that key, but not under a name that a person would have chosen."""
    parent = decided(below(shape, document.value, path), _value_at(document.value, path))
    if parent is not None and parent.open:
        names = list(_value_at(document.value, path))
        what = f"there is no '{element}' under {dotted(path)}{suggestion(element, names)}"
        raise RecipeError([Problem(place, 0, 0, what)])
    if parent is not None and parent.fields and element not in parent.fields:
        message = f"unknown key '{element}'{suggestion(element, parent.fields)}"
        raise RecipeError([Problem(place, 0, 0, f"{dotted(path)}: {message}" if path else message)])


def _value_at(value: Any, path: Path) -> Any:
    for element in path:
        value = value[element]
    return value
