"""Values of parameters: constants, or gradients over the layers; checked against what a method takes."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from merge.methods.base import Parameter

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")


@dataclass(frozen=True)
class Place:
    """A tensor of the output: its name, and how deep it lies, from 0 (first layer) to 1 (last), None outside."""

    name: str
    depth: float | None = None


def layer_of(name: str) -> int | None:
    """The number of a tensor's layer, or None: `model.layers.3.mlp.up_proj.weight` is of layer 3."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def split_at_layer(name: str) -> tuple[str, int, str] | None:
    """A tensor's name before, at and behind the number of its layer: `("model.layers.", 3, ".mlp.up_proj.weight")`."""
    match = _LAYER.search(name)
    return (name[: match.start(1)], int(match[1]), name[match.end(1) :]) if match else None


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of each tensor of a model."""
    layers = {name: layer_of(name) for name in names}
    last = max((layer for layer in layers.values() if layer is not None), default=0)
    return {name: Place(name, None if layer is None else layer / max(1, last)) for name, layer in layers.items()}


@dataclass(frozen=True)
class Gradient:
    """Values that stand at equal distances from the first layer to the last, linear between them.

    Tensors outside of the layers take the first value, as in mergekit.
    """

    values: tuple[float, ...]

    def at(self, place: Place) -> float:
        """The value for a tensor."""
        if place.depth is None or len(self.values) == 1:
            return self.values[0]
        spot = place.depth * (len(self.values) - 1)
        left = min(int(spot), len(self.values) - 2)
        share = spot - left
        return (1 - share) * self.values[left] + share * self.values[left + 1]


def value_at(setting: Any, place: Place) -> Any:
    """The value of a setting (a constant, or something with `at`) for a tensor."""
    return setting.at(place) if hasattr(setting, "at") else setting


def problem_with(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with a value, in words; None if nothing is."""
    if isinstance(value, Gradient):
        return next((found for part in value.values if (found := problem_with(parameter, part))), None)
    if parameter.kind is bool:
        return None if isinstance(value, bool) else f"{parameter.name} is {value!r}; it is true or false"
    if parameter.kind is str:
        return None if isinstance(value, str) else f"{parameter.name} is {value!r}; it is a word"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{parameter.name} is {value!r}; it is a number"
    if not math.isfinite(value) or (parameter.kind is int and value != int(value)):
        return f"{parameter.name} is {value:g}; it is a {'whole' if parameter.kind is int else 'finite'} number"
    low, high, above = parameter.low, parameter.high, parameter.above
    if (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
    ):
        return f"{parameter.name} is {value:g}; it lies {_range(parameter)}"
    return None


def _range(parameter: Parameter) -> str:
    lower = f"above {parameter.above:g}" if parameter.above is not None else None
    if lower is None and parameter.low is not None:
        lower = f"from {parameter.low:g}" if parameter.high is not None else f"at or above {parameter.low:g}"
    upper = f"{'to' if lower else 'at or below'} {parameter.high:g}" if parameter.high is not None else None
    return " ".join(part for part in (lower, upper) if part)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'density'?` for a word near one that is known, else the known words."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"it takes {', '.join(known) or 'none'}"
