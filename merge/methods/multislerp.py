"""The weighted mean of directions, for any number of models."""

from __future__ import annotations

import math

import torch

from merge.errors import MergeError
from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import combination, gram, length, points
from merge.methods.linear import shares


class MultiSlerp(Method):
    """`r * m / |m|` with `m = sum_i w_i u_i`, `u_i = v_i / (|v_i| + eps)` and `r = sum_i w_i |v_i|`.

    v are the models, or with a base their task vectors, which are added to it. Goddard, "Multi-SLERP" (2025) puts the u
    on the tangent space at `m / |m|`, averages them there and comes back by the exponential map; that average is
    `m - <m, m / |m|> m / |m| = 0`, so the point where the tangent space touches is the result. (mergekit comes back
    along `|0| + eps`, which leaves the factor `cos(eps)`.)

    Weights are divided by their sum (`normalize_weights`). Directions that cancel under the weights have no mean: two
    are then interpolated linearly, more are a MergeError. One model is returned as it is.
    """

    name = "multislerp"
    base = "optional"
    parameters = (
        Parameter("weight", "How much of this model.", each=True),
        Parameter("normalize_weights", "Divide the weights by their sum.", default=True, kind=bool),
        Parameter("eps", "Added to every length that is divided by.", default=1e-8, above=0.0),
    )

    def check(self, values: Values) -> None:
        """Weights without shares."""
        if values["normalize_weights"] and len(values["weight"]) > 1:
            shares(self.name, values["weight"], "normalize_weights")

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[float]:
        """The coefficient of each input or task vector."""
        weights, eps = list(values["weight"]), values["eps"]
        if len(weights) == 1:
            return [1.0]
        if values["normalize_weights"]:
            weights = shares(self.name, weights, "normalize_weights")
        matrix = gram(blocks)
        lengths = [math.sqrt(row[i]) for i, row in enumerate(matrix)]
        direction = [weight / (norm + eps) for weight, norm in zip(weights, lengths, strict=True)]
        norm = length(direction, matrix)
        if norm >= eps:
            radius = math.fsum(weight * norm for weight, norm in zip(weights, lengths, strict=True))
            return [radius * math.cos(eps) / norm * part for part in direction]
        if len(weights) == 2:
            return weights
        shown = ", ".join(f"{weight:g}" for weight in values["weight"])
        raise MergeError(f"multislerp: the inputs' directions cancel under the weights {shown}; change a weight")

    def combine(self, block: Block, values: Values, summary: list[float]) -> torch.Tensor:
        """The combination, added to the base if there is one."""
        if len(block.inputs) == 1:
            return block.inputs[0]
        result = combination(points(block), summary)
        return result if block.base is None else block.base.add_(result)
