"""What the methods share that thin out task vectors `input - base` and add them to the base."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import torch

from merge.methods.base import Parameter, Values

WEIGHT = Parameter("weight", "How much of this model's task vector is added.", each=True)
DENSITY = Parameter("density", "Share of this model's task vector that is kept.", default=1.0, each=True, low=0, high=1)
LAMBDA = Parameter("lambda", "Scale of the merged task vector.", default=1.0)
NORMALIZE = "Divide by the sum of the weights"
RESCALE = "Scale what is kept of a task vector to the sum of magnitudes that the whole had."


def normalize(default: bool) -> Parameter:
    """Whether to divide by the weights' sum, over the models that agree where signs are elected."""
    return Parameter("normalize", f"{NORMALIZE}.", default=default, kind=bool)


def rescale(default: bool) -> Parameter:
    """Whether the L1 norm of a thinned task vector is restored."""
    return Parameter("rescale", RESCALE, default=default, kind=bool)


def add_sum(base: torch.Tensor, vectors: Sequence[torch.Tensor], values: Values) -> torch.Tensor:
    """`base + lambda * sum_i w_i v_i`, with `normalize` divided by `sum_i w_i` unless that is below 1e-8; in place."""
    weights = values["weight"]
    total = vectors[0].mul_(weights[0])
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total.add_(vector.mul_(weight))
    divisor = math.fsum(weights)
    if values["normalize"] and abs(divisor) >= 1e-8:
        total.div_(divisor)
    return base.add_(total.mul_(values["lambda"]))


class RowSums:
    """The sum of a tensor that comes in blocks of rows, float32 within a row and exact across rows.

    Each row is summed for itself and the rows' sums are added without rounding, so the cut into blocks and the number
    of threads change no bit.
    """

    COLUMNS = 2**14
    """Fewer than torch spreads over threads, which would make a row's sum depend on their number."""

    def __init__(self) -> None:
        self.parts = array("d")

    def add(self, rows: torch.Tensor) -> None:
        """Add a block `[n, c]`."""
        for columns in rows.split(self.COLUMNS, dim=1):
            self.parts.extend(columns.sum(dim=1).tolist())

    @property
    def total(self) -> float:
        """The sum so far."""
        return math.fsum(self.parts)


def matching_factor(before: float, after: float) -> float:
    """What restores an L1 norm: `before / after`, 1 where either is below 1e-7 (mergekit's bound)."""
    return before / after if min(before, after) >= 1e-7 else 1.0
