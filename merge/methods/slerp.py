"""Spherical interpolation between two models."""

from __future__ import annotations

import math

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import combination, cosine, gram

_COLLINEAR = 0.9995
_NO_LENGTH = 1e-8


class Slerp(Method):
    """`sin((1 - t) a) / sin(a) * base + sin(t a) / sin(a) * x`, a the angle between the two as whole tensors.

    Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985), on the tensor as one long vector. The base is
    the end t = 0, the model the end t = 1, both bit for bit; t beyond them goes on along the same great circle. Where
    `|cos a| > 0.9995`, `(1 - t) base + t x`. A vector shorter than 1e-8 is at a right angle to everything.
    """

    name = "slerp"
    base = "required"
    ancestor = False
    arguments = ("base", "models")
    count = (1, 1)
    parameters = (Parameter("t", "How far from the base (0) to the model (1)."),)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> tuple[float, float]:
        """The coefficients of the base and of the model."""
        t = values["t"]
        (base, product), (_, model) = gram(blocks, _ends)
        lengths = [math.sqrt(square) if square > _NO_LENGTH**2 else 0.0 for square in (base, model)]
        similarity = cosine(product, *lengths)
        if abs(similarity) > _COLLINEAR:
            return 1 - t, t
        angle = math.acos(similarity)
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)

    def combine(self, block: Block, values: Values, summary: tuple[float, float]) -> torch.Tensor:
        """The two, each times its coefficient."""
        return combination(_ends(block), summary)


def _ends(block: Block) -> list[torch.Tensor]:
    return [block.base, *block.inputs]
