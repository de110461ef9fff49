"""The base, moved towards another model by at most t an element."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Method, Parameter, Values


class NearSwap(Method):
    """`min(max(x, base - t), base + t)`: where the models are within t of each other the element is swapped for x's.

    mergekit writes it as `w x + (1 - w) base` with `w = min(1, t / max(|x - base|, 1e-6))`, which is the same wherever
    t or the distance is at least 1e-6; where both are less, mergekit moves by less than t. The idea is alchemonaut's
    QuartetAnemoi-70B-t0.0001.
    """

    name = "nearswap"
    base = "required"
    ancestor = False
    arguments = ("base", "models")
    count = (1, 1)
    parameters = (Parameter("t", "The furthest that an element moves.", low=0.0),)

    def combine(self, block: Block, values: Values, summary: None) -> torch.Tensor:
        """The model's elements, cut to the neighbourhood of the base's."""
        nearest = block.inputs[0]
        torch.maximum(nearest, block.base.sub(values["t"]), out=nearest)
        return torch.minimum(nearest, block.base.add_(values["t"]), out=nearest)
