"""What may stand at a place of a recipe, read off the annotations of the settings classes.

pydantic says where an error is in terms of its own schema (union tags, validators' names). Walking the annotations
beside the values turns that into the keys a person wrote, and says what would have been allowed there.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Discriminator, Tag
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "anything"}


@dataclass(frozen=True)
class Shape:
    """An annotation without its `Annotated`, its validators and its `None`."""

    core: Any
    discriminator: str | Discriminator | None = None
    written: Any = None
    """What a person may write where that is more than `core`: a validator before it reads short forms."""
    read: Callable[[Any], Any] | None = None
    """The validator that reads short forms of a tagged union (`full`, or settings without their kind)."""

    @property
    def members(self) -> tuple[Any, ...]:
        """The alternatives of a union, as annotated; empty for all else."""
        if get_origin(self.core) not in (Union, types.UnionType):
            return ()
        return tuple(member for member in get_args(self.core) if member is not type(None))

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The fields of a settings class by the keys that a person writes; empty for all else."""
        if not _is_model(self.core):
            return {}
        return {field.alias or name: field for name, field in self.core.model_fields.items()}

    @property
    def open(self) -> bool:
        """Whether a person chooses the keys (`dict[str, ...]`)."""
        return _container(self.core) is dict

    @property
    def tags(self) -> tuple[str, ...]:
        """The names that tell the members of a tagged union apart: kinds, methods, or keys that must be there."""
        return tuple(tag for member in self.members for tag in tags_of(member, self.discriminator))

    def item(self, element: str | int) -> Shape | None:
        """The shape below a key or an index, or None where nothing is known of it."""
        if isinstance(element, str) and element in self.fields:
            return shape_of_field(self.fields[element])
        arguments = get_args(self.core)
        if self.open and len(arguments) == 2:
            return shape_of(arguments[1])
        if _container(self.core) is list and arguments:
            return shape_of(arguments[0])
        return None

    def chosen(self, value: Any) -> Any | None:
        """The member of a union that `value` is meant to be, as annotated: by its tag, else by what it looks like."""
        if self.discriminator is not None:
            tag = self._tag(value)
            return next((member for member in self.members if tag in tags_of(member, self.discriminator)), None)
        fitting = [member for member in self.members if _looks_like(shape_of(member), value)]
        return fitting[0] if len(fitting) == 1 else None

    def _tag(self, value: Any) -> Any:
        if isinstance(self.discriminator, Discriminator) and callable(self.discriminator.discriminator):
            return self.discriminator.discriminator(value)
        value = value if self.read is None else self.read(value)
        if isinstance(value, Mapping):
            return value.get(str(self.discriminator))
        return value  # the short form: `schedule: linear`


def shape_of(annotation: Any, discriminator: Any = None) -> Shape:
    """The shape of an annotation."""
    written = None
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        discriminator = _discriminator(metadata) or discriminator
        written = _written(metadata) or written
    shape = Shape(annotation, discriminator, written)
    if len(shape.members) == 1:
        return shape_of(shape.members[0], discriminator)
    return shape


def shape_of_field(field: FieldInfo) -> Shape:
    """The shape of a settings class's field."""
    shape = shape_of(field.annotation, field.discriminator or _discriminator(field.metadata))
    return replace(shape, written=_written(field.metadata) or shape.written, read=_read(field.metadata) or shape.read)


def below(shape: Shape | None, value: Any, path: Sequence[str | int]) -> Shape | None:
    """The shape at `path` below a shape, with unions decided by the values that stand there; None where unknown."""
    for element in path:
        shape = decided(shape, value)
        if shape is None:
            return None
        shape = shape.item(element)
        value = at(value, element)
    return shape


def decided(shape: Shape | None, value: Any) -> Shape | None:
    """The member of a union that the value is meant to be; any other shape as it is."""
    while shape is not None and shape.members:
        member = shape.chosen(value)
        shape = None if member is None else shape_of(member)
    return shape


def at(value: Any, element: str | int) -> Any:
    """The item under a key or an index, or None."""
    if isinstance(value, Mapping):
        return value.get(element)
    if isinstance(value, list) and isinstance(element, int) and 0 <= element < len(value):
        return value[element]
    return None


def allowed_keys(shape: Shape | None) -> tuple[str, ...]:
    """The keys that may stand in a mapping of this shape; empty where a person chooses them."""
    return tuple(shape.fields) if shape is not None else ()


def described(shape: Shape | None) -> str:
    """What is allowed, in plain English."""
    if shape is None:
        return "anything"
    if shape.written is not None:
        return described(shape_of(shape.written))
    if get_origin(shape.core) is Literal:
        choices = [str(choice) for choice in get_args(shape.core)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if shape.tags:
        return f"a mapping with {_tag_words(shape)}"
    if shape.members:
        return " or ".join(described(shape_of(member)) for member in shape.members)
    if shape.fields:
        return f"a mapping with the keys {', '.join(shape.fields)}"
    if shape.open:
        return f"a mapping of names to {described(shape.item(''))}"
    if _container(shape.core) is list:
        return f"a list of {described(shape.item(0))}"
    return _WORDS.get(shape.core, "something else")


def _tag_words(shape: Shape) -> str:
    if isinstance(shape.discriminator, str):
        return f"{shape.discriminator}: {' | '.join(shape.tags)}"
    return f"one of the keys {', '.join(shape.tags)}"


def _discriminator(metadata: Sequence[Any]) -> Any:
    for meta in metadata:
        if isinstance(meta, Discriminator):
            return meta
        if isinstance(meta, FieldInfo) and meta.discriminator is not None:
            return meta.discriminator
    return None


def _written(metadata: Sequence[Any]) -> Any:
    for meta in metadata:
        if isinstance(meta, BeforeValidator) and meta.json_schema_input_type is not PydanticUndefined:
            return meta.json_schema_input_type
    return None


def tags_of(member: Any, discriminator: Any) -> tuple[str, ...]:
    """What tells one member of a tagged union from the others: its kinds, or the key that must be there."""
    if get_origin(member) is Annotated:
        for meta in get_args(member)[1:]:
            if isinstance(meta, Tag):
                return (meta.tag,)
    fields = shape_of(member).fields
    if isinstance(discriminator, str) and discriminator in fields:
        return tuple(str(choice) for choice in get_args(fields[discriminator].annotation))
    return ()


def _read(metadata: Sequence[Any]) -> Callable[[Any], Any] | None:
    return next((meta.func for meta in metadata if isinstance(meta, BeforeValidator)), None)


def _is_model(core: Any) -> bool:
    return isinstance(core, type) and get_origin(core) is None and issubclass(core, BaseModel)


def _container(core: Any) -> type | None:
    origin = get_origin(core) or core
    if not isinstance(origin, type) or issubclass(origin, str):
        return None
    if issubclass(origin, Mapping):
        return dict
    return list if issubclass(origin, (Sequence, set, frozenset)) else None


def _looks_like(shape: Shape, value: Any) -> bool:
    if shape.members:
        return any(_looks_like(shape_of(member), value) for member in shape.members)
    container = dict if shape.fields else _container(shape.core)
    if isinstance(value, Mapping):
        return container is dict
    if isinstance(value, list):
        return container is list
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return shape.core in (int, float)
    return container is None
