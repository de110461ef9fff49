"""Free coefficients of an expression: `cpt + w * (instruct - base)` with `w=0..1.5`, one for all or one for a group.

A name in the expression that stands for a number is free. It may be one number for the whole model, one for each of n
groups of layers, or one for each kind of module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from adapt.errors import AdaptError

By = Literal["model", "layers", "kinds"]
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_OPTION = re.compile(
    rf"(?P<name>[^\W\d]\w*)(?::(?P<by>layers|kinds)(?:=(?P<count>\d+))?)?(?:=(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER}))?"
)


@dataclass(frozen=True)
class Free:
    """A free name, the range that it is looked for in, and whether every part of the model has its own value."""

    name: str
    low: float
    high: float
    by: By = "model"
    count: int = 1


@dataclass(frozen=True)
class Coefficient:
    """One number that is looked for: that of a free name, for all tensors or for those of a group."""

    label: str
    name: str
    low: float
    high: float


def free_of(options: Iterable[str]) -> tuple[Free, ...]:
    """Read `w=0..1.5`, `w:layers=4=0..1.5`, `w:kinds=0..1.5`; range and groups may also be two options.

    Raises AdaptError for anything else, for a name without a range and for a range whose ends are not in order.
    """
    ranges: dict[str, tuple[float, float]] = {}
    groups: dict[str, tuple[By, int]] = {}
    names: list[str] = []
    for text in options:
        match = _OPTION.fullmatch(text.strip())
        layers_without_count = match is not None and match["by"] == "layers" and not match["count"]
        if match is None or layers_without_count or (match["by"] == "kinds" and match["count"]):
            raise AdaptError(f"--free '{text}' is not understood; write w=0..1.5, w:layers=4=0..1.5 or w:kinds=0..1.5")
        if match["low"] is not None:
            ranges[match["name"]] = (float(match["low"]), float(match["high"]))
        if match["by"] is not None:
            groups[match["name"]] = (match["by"], int(match["count"] or 1))
        names.append(match["name"])
    for name in names:
        if name not in ranges:
            raise AdaptError(f"--free {name} has no range; write for example --free {name}=0..1.5")
    found = tuple(Free(name, low, high, *groups.get(name, ("model", 1))) for name, (low, high) in ranges.items())
    check_ranges(found)
    return found


def check_ranges(frees: Sequence[Free]) -> None:
    """Raise AdaptError where there is nothing free, for a range that is empty, and for no group of layers."""
    if not frees:
        raise AdaptError("no coefficient is free; name one in the expression and give its range: --free w=0..1.5")
    for free in frees:
        if not free.low < free.high:
            raise AdaptError(f"the range of '{free.name}' is {free.low:g}..{free.high:g}; its ends must be in order")
        if free.count < 1:
            raise AdaptError(f"'{free.name}' has {free.count} groups of layers; it must have at least 1")


def check_names(frees: Sequence[Free], expression: str, models: Iterable[str] = ()) -> None:
    """Raise AdaptError for a free name that the expression does not hold, or that is a model."""
    known = words_of(expression)
    taken = set(models)
    for free in frees:
        if free.name in taken:
            raise AdaptError(f"'{free.name}' is both a model and a free coefficient; give one of them another name")
        if free.name not in known:
            near = get_close_matches(free.name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its names are {', '.join(known)}"
            raise AdaptError(f"'{free.name}' is free, but '{expression}' does not name it; {hint}")


def words_of(expression: str) -> tuple[str, ...]:
    """Every unquoted name of an expression, models, free names and values of parameters. Raises ExpressionError."""
    return tuple(dict.fromkeys(name for name, _ in _places(expression)))


def filled(expression: str, values: Mapping[str, float]) -> str:
    """The expression with numbers in the places of free names: `cpt + 0.3 * (instruct - base)`."""
    text = expression
    for name, place in sorted(_places(expression), key=lambda found: -found[1]):
        if name in values:
            before, value = text[:place], values[name]
            if value < 0 and before.endswith("+ "):
                before, value = f"{before[:-2]}- ", -value
            text = f"{before}{value:.10g}{text[place + len(name) :]}"
    return text


def _places(expression: str) -> list[tuple[str, int]]:
    """Unquoted names with the character at which they begin."""
    from merge.expression import Binary, Call, Listing, Name, syntax

    found: list[tuple[str, int]] = []

    def visit(node: object) -> None:
        if isinstance(node, Name):
            if expression.startswith(node.name, node.position):
                found.append((node.name, node.position))
        elif isinstance(node, Binary):
            visit(node.left)
            visit(node.right)
        elif isinstance(node, Listing):
            for item in node.items:
                visit(item.value)
                visit(item.weight)
        elif isinstance(node, Call):
            for argument in node.arguments:
                visit(argument.value)

    visit(syntax(expression))
    return found
