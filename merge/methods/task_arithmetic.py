"""Weighted task vectors added to their base."""

from __future__ import annotations

import math

import torch

from merge.methods.base import Block, Method, Parameter, Values
from merge.methods.gram import combination

_NO_SUM = 1e-8


class TaskArithmetic(Method):
    """`base + lambda * sum_i w_i (x_i - base)`; with `normalize` the sum is divided by `sum_i w_i`.

    Ilharco et al., "Editing Models with Task Arithmetic" (ICLR 2023, arXiv 2212.04089). Differences are taken before
    they are weighted and the base is added last, so a small task vector keeps its digits. A sum of weights below 1e-8
    is not divided by (as in mergekit: `w = (1, -1)` is an analogy, not a mistake).
    """

    name = "task_arithmetic"
    base = "required"
    arguments = ("base", "models")
    parameters = (
        Parameter("weight", "How much of this model's task vector.", each=True),
        Parameter("lambda", "Scale of the summed task vectors.", default=1.0),
        Parameter("normalize", "Divide by the sum of the weights.", default=False, kind=bool),
    )

    def combine(self, block: Block, values: Values, summary: None) -> torch.Tensor:
        """The base plus the weighted task vectors."""
        weights, scale = values["weight"], values["lambda"]
        total = math.fsum(weights)
        if values["normalize"] and abs(total) >= _NO_SUM:
            scale /= total
        return block.base.add_(combination(block.differences(), weights), alpha=scale)
