"""Values to settings, or all that is wrong with them as problems at their places."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adapt.errors import Problem
from adapt.recipe.places import Path, Places, dotted
from adapt.recipe.shapes import Shape, allowed_keys, at, decided, shape_of
from adapt.recipe.wording import nearest, suggestion, worded, wrong_type


def validated(annotation: Any, value: Any, path: Path, places: Places) -> tuple[Any, list[Problem]]:
    """The settings that `value` makes and no problems, or None and at least one problem."""
    try:
        return TypeAdapter(annotation).validate_python(value), []
    except ValidationError as error:
        found = _problems(annotation, value, path, places, error)
        return None, list(dict.fromkeys(found))


def salvaged(annotation: Any, value: Any) -> Any | None:
    """The settings without what is wrong in them, or None where nothing can be left out.

    What they refer to is then checked together with what is wrong, instead of after that was put right.
    """
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        wrong = [_walked(annotation, value, (), item).path for item in error.errors(include_url=False)]
    try:
        return TypeAdapter(annotation).validate_python(_without(value, wrong))
    except ValidationError:
        return None


def _without(value: Any, paths: Collection[Path]) -> Any:
    """The value without what stands at the paths; lists lose nothing, as this would move their other items."""
    if not isinstance(value, dict):
        return value
    below = {key: [path[1:] for path in paths if path and path[0] == key] for key in value}
    return {key: _without(item, below[key]) for key, item in value.items() if () not in below[key]}


def labelled(path: Path, message: str) -> str:
    """The message behind the dotted path that it is about."""
    return f"{dotted(path)}: {message}" if path else message


def _problems(annotation: Any, value: Any, path: Path, places: Places, error: ValidationError) -> Iterator[Problem]:
    unions: set[Path] = set()
    walks = [(item, _walked(annotation, value, path, item)) for item in error.errors(include_url=False)]
    misspelt = {_meant(walk) for item, walk in walks if item["type"] == "extra_forbidden"}
    for item, walk in walks:
        if item["type"] == "missing" and walk.path in misspelt:
            continue  # said already, where the misspelt key stands
        if walk.union is None:
            yield _problem(item, walk, places)
        elif walk.path not in unions:
            unions.add(walk.path)
            yield from _union_problems(walk, places)


def _walked(annotation: Any, value: Any, path: Path, item: Any) -> _Walk:
    walk = _Walk(shape_of(annotation), value, path)
    walk.follow(item["loc"])
    return walk


def _meant(walk: _Walk) -> Path:
    """The path of the key that an unknown key was probably meant to be."""
    return (*walk.path[:-1], nearest(walk.path[-1], allowed_keys(decided(walk.parent, walk.parent_value))) or "")


def _union_problems(walk: _Walk, places: Places) -> Iterator[Problem]:
    """A union without tags gives one error for each member; only those of the member that was meant are of use."""
    assert walk.union is not None
    member = None if isinstance(walk.value, (str, bool)) else walk.union.chosen(walk.value)
    problems = [] if member is None else validated(member, walk.value, walk.path, places)[1]
    if problems:
        yield from problems
    else:
        yield places.value(walk.path, labelled(walk.path, wrong_type(walk.value, walk.union)))


def _problem(item: Any, walk: _Walk, places: Places) -> Problem:
    kind, shape = item["type"], walk.shape
    if kind == "extra_forbidden":
        message = worded(item, shape, decided(walk.parent, walk.parent_value))
        return places.key(walk.path, labelled(walk.path[:-1], message))
    if kind == "missing":
        return places.key(walk.path[:-1], labelled(walk.path[:-1], _missing(str(walk.path[-1]), walk)))
    if shape is not None and shape.tags and kind != "union_tag_invalid" and not isinstance(walk.value, dict):
        return places.value(walk.path, labelled(walk.path, wrong_type(walk.value, shape)))
    if shape is not None and _is_untagged(shape, walk.value):
        return _untagged(shape, walk, places)
    if kind == "union_tag_invalid" and shape is not None and isinstance(walk.value, dict):
        key = str(shape.discriminator)
        return places.value((*walk.path, key), labelled((*walk.path, key), worded(item, shape, walk.parent)))
    if walk.is_key:
        return places.key(walk.path, labelled(walk.path, worded(item, shape, walk.parent)))
    return places.value(walk.path, labelled(walk.path, worded(item, shape, walk.parent)))


def _missing(key: str, walk: _Walk) -> str:
    parent = decided(walk.parent, walk.parent_value)
    field = parent.fields.get(key) if parent is not None else None
    meaning = (field.description or "").split("\n")[0] if field is not None else ""
    return f"lacks the key '{key}'" + (f" ({meaning.rstrip('.')})" if meaning else "")


def _is_untagged(shape: Shape, value: Any) -> bool:
    keys = {str(shape.discriminator), *shape.tags}
    return bool(shape.tags) and isinstance(value, dict) and shape.chosen(value) is None and not keys & set(value)


def _untagged(shape: Shape, walk: _Walk, places: Places) -> Problem:
    """A mapping whose kind is not given: perhaps the key is only misspelt."""
    keys = (shape.discriminator,) if isinstance(shape.discriminator, str) else shape.tags
    for key in walk.value:
        near = nearest(key, keys)
        if near is not None:
            message = f"unknown key '{key}'{suggestion(key, keys)}"
            return places.key((*walk.path, key), labelled(walk.path, message))
    if isinstance(shape.discriminator, str):
        message = f"lacks the key '{shape.discriminator}'; allowed: {', '.join(shape.tags)}"
    else:
        message = f"has none of the keys {', '.join(keys)}; one of them says what it is"
    return places.key(walk.path, labelled(walk.path, message))


class _Walk:
    """Follows pydantic's location of an error through annotations and values, leaving out what is not in the file."""

    def __init__(self, shape: Shape | None, value: Any, path: Path) -> None:
        self.shape, self.value, self.path = shape, value, path
        self.parent: Shape | None = None
        self.parent_value: Any = None
        self.union: Shape | None = None
        self.is_key = False

    def follow(self, location: tuple[str | int, ...]) -> None:
        """Go to the error, or stop at the first union without tags (and set `union`)."""
        for element in location:
            if element == "[key]":
                self.is_key = True
                return
            if self.shape is not None and self.shape.members:
                if self.shape.discriminator is None:
                    self.union = self.shape
                    return
                member = self.shape.chosen(self.value)
                self.shape = None if member is None else shape_of(member)
                continue
            self.parent, self.parent_value = self.shape, self.value
            self.shape = self.shape.item(element) if self.shape is not None else None
            self.value = at(self.value, element)
            self.path = (*self.path, element)
