"""The reference of recipes, `docs/reference.md`, written from the settings classes and their fields' descriptions.

python -m adapt.recipe.reference > docs/reference.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from adapt.recipe.schema import Recipe
from adapt.recipe.shapes import Shape, described, shape_of, shape_of_field, tags_of

_HEAD = """# Recipe reference

Every key of a recipe, made from the code by `make reference`. `adapt schema` prints the same as a JSON Schema for
editors, and `adapt check RECIPE` a recipe with all defaults filled in. Numbers may be written as `1e-3`, `2M`, `16k` or
`50%`.
"""


def reference() -> str:
    """The page in Markdown: one section for each settings class that a recipe can reach, outermost first."""
    names = _names()
    return "\n".join([_HEAD, *(line for shape, name in names.items() for line in _section(shape, name, names))])


def _names() -> dict[Any, str]:
    """All settings classes below a recipe, breadth first, with the headings of their sections."""
    found: dict[Any, str] = {}
    waiting: list[tuple[Shape, str]] = [(shape_of(Recipe), "Recipe")]
    while waiting:
        shape, name = waiting.pop(0)
        if shape.fields:
            if shape.core in found:
                continue
            found[shape.core] = name
            waiting += [(shape_of_field(field), f"`{key}`") for key, field in shape.fields.items()]
        waiting += _inside(shape, name)
    return found


def _inside(shape: Shape, name: str = "") -> Iterator[tuple[Shape, str]]:
    """The shapes that a union, a mapping or a list is made of, with their names."""
    for member in shape.members:
        tags = tags_of(member, shape.discriminator)
        yield shape_of(member), f"{name.split(':')[0]}: `{' | '.join(tags)}`" if tags else name
    below = None if shape.fields or shape.members else shape.item("" if shape.open else 0)
    if below is not None:
        yield below, name


def _section(core: Any, name: str, names: dict[Any, str]) -> Iterator[str]:
    shape = shape_of(core)
    yield f"## {name} {{#{anchor(core)}}}\n"
    yield f"{inspect.cleandoc(core.__doc__ or '')}\n"
    yield "| key | what may stand there | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in shape.fields.items():
        if key != "kind":
            allowed = _linked(shape_of_field(field), names)
            yield f"| `{key}` | {allowed} | {_default(field)} | {_cell(field.description or '')} |"
    yield ""


def _linked(shape: Shape, names: dict[Any, str]) -> str:
    """What is allowed, with links to the sections of the settings that may stand there."""
    if shape.fields:
        return f"[{_cell(names[shape.core])}](#{anchor(shape.core)})"
    links = [_linked(inner, names) for inner, _ in _inside(shape)]
    if not any("](#" in link for link in links):
        return _cell(described(shape))
    joined = " or ".join(dict.fromkeys(links))
    if shape.members:
        return joined
    return f"a mapping of names to {joined}" if shape.open else f"a list of {joined}"


def anchor(core: Any) -> str:
    """The name under which other pages link to a settings class."""
    return f"{core.__module__.removeprefix('adapt.').replace('.', '-')}-{core.__name__}".lower()


def _default(field: Any) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "" or value == {}:
        return "empty"
    return f"`{_written(value)}`"


def _written(value: Any) -> str:
    """A default as a person would write it in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        return str(getattr(value, "kind", None) or getattr(value, "method", None) or "its defaults")
    return str(list(value) if isinstance(value, tuple) else value)


def _cell(text: str) -> str:
    """Text on one line of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
