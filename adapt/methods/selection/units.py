"""The units of a model that train or stay frozen as one: a module's weight and bias, by layer and category.

Read off names and shapes alone, so that no model has to be loaded to see what a selection would be. A fused module
(`qkv_proj`, `gate_up_proj`) is one unit, and so is the tensor of all experts `[experts, out, in]` of one kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Category = Literal["attention", "feed_forward", "norm", "router", "bias", "other"]
Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = re.compile(r"(?P<stack>[^\d]*?\.)(?P<layer>\d+)\.(?P<rest>.+)")
_NORM = re.compile(r"norm|(^|\.)ln_?\w*$|layer_?norm")
_ATTENTION = re.compile(r"attn|attention")
_ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)$")
_FEED_FORWARD = re.compile(r"mlp|ffn|feed_forward|expert|moe|(^|\.)(fc1|fc2|w1|w2|w3)$")


@dataclass(frozen=True)
class Unit:
    """Parameters that train together. `layer` and `stack` are None and empty for what stands outside the blocks."""

    name: str
    category: Category
    parameters: tuple[str, ...]
    size: int
    layer: int | None = None
    stack: str = ""

    @property
    def block(self) -> str:
        """The layer that the unit belongs to, as part of a name; empty outside the blocks."""
        return "" if self.layer is None else f"{self.stack}{self.layer}"

    @property
    def kind(self) -> str:
        """The unit's name within its layer, the same in all layers: `self_attn.q_proj`."""
        return self.name.removeprefix(f"{self.block}.") if self.layer is not None else self.name


def unit_name(parameter: str) -> str:
    """The unit of a parameter: its module for `weight` and `bias`, else the parameter itself, with its own `_bias`."""
    module, _, last = parameter.rpartition(".")
    return module if last in ("weight", "bias") else parameter.removesuffix("_bias")


def category_of(rest: str, dimensions: int, bias: bool = False) -> Category:
    """The category of a unit from its name within the layer and the most dimensions that one of its tensors has.

    A `bias` is a category of its own only where it is a unit of its own.
    """
    name = rest.lower()
    if dimensions < 2:
        return "norm" if _NORM.search(name) else "bias" if bias else "other"
    if _ROUTER.search(name):
        return "router"
    if _ATTENTION.search(name):
        return "attention"
    return "feed_forward" if _FEED_FORWARD.search(name) else "other"


def units_of(shapes: Shapes, apart: bool = False) -> tuple[Unit, ...]:
    """The units of all parameters in `shapes`, in the model's order; each parameter by itself with `apart`."""
    members: dict[str, list[str]] = {}
    for name in shapes:
        members.setdefault(name if apart else unit_name(name), []).append(name)
    return tuple(_unit(name, parameters, shapes) for name, parameters in members.items())


def _unit(name: str, parameters: list[str], shapes: Shapes) -> Unit:
    size = sum(math.prod(shapes[parameter]) for parameter in parameters)
    dimensions = max(len(shapes[parameter]) for parameter in parameters)
    bias = all(parameter.endswith("bias") for parameter in parameters)
    match, module = _BLOCK.fullmatch(name), unit_name(parameters[0])
    if match is None:
        return Unit(name, category_of(module, dimensions, bias), tuple(parameters), size)
    category = category_of(module.removeprefix(f"{match['stack']}{match['layer']}."), dimensions, bias)
    return Unit(name, category, tuple(parameters), size, int(match["layer"]), match["stack"])


def shapes_of(model: Any, without: Collection[int] = ()) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters, those whose `id` is in `without` left out."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if id(p) not in without}


def parameters_of(units: Collection[Unit]) -> frozenset[str]:
    """The names of all parameters of some units."""
    return frozenset(name for unit in units for name in unit.parameters)
