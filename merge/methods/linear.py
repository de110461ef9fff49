"""The weighted mean of models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from merge.errors import MergeError
from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import combination, mean


class Linear(Method):
    """`sum_i w_i x_i / sum_i w_i`; without `normalize`, `sum_i w_i x_i`.

    Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time" (ICML 2022, arXiv 2203.05482). The mean of equal models is that model, bit for bit. Weights that
    sum to 0 cannot be normalised (mergekit writes inf and NaN): MergeError.
    """

    name = "linear"
    parameters = (
        Parameter("weight", "How much of this model.", each=True),
        Parameter("normalize", "Divide by the sum of the weights.", default=True, kind=bool),
    )

    def check(self, values: Values) -> None:
        """Weights without shares."""
        if values["normalize"]:
            shares(self.name, values["weight"])

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[float]:
        """The coefficient of each input."""
        return shares(self.name, values["weight"]) if values["normalize"] else list(values["weight"])

    def combine(self, block: Block, values: Values, summary: list[float]) -> torch.Tensor:
        """The weighted mean, or the weighted sum."""
        return (mean if values["normalize"] else combination)(block.inputs, summary)


def shares(method: str, weights: Sequence[float], switch: str = "normalize") -> list[float]:
    """The weights divided by their sum. Raises MergeError where that is 0 (or nothing but rounding)."""
    total = math.fsum(weights)
    if abs(total) <= 1e-8 * math.fsum(map(abs, weights)):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise MergeError(f"{method}: the weights {shown} sum to 0, so they have no shares; set {switch} to false")
    return [weight / total for weight in weights]
