"""DELLA without the election of signs."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Values
from merge.methods.magprune import EPSILON, check_probabilities, magprune, magprune_factors
from merge.methods.random_masks import Thinning
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, add_sum, normalize, rescale


class DellaLinear(Method):
    """The sum of task vectors thinned as in `della`: `base + lambda * sum_i w_i f_i m_i d_i`.

    Deep, Bhardwaj and Poria (arXiv 2406.11617).
    """

    name = "della_linear"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, EPSILON, normalize(False), rescale(True), LAMBDA)
    random = True

    def check(self, values: Values) -> None:
        """Probabilities outside of (0, 1)."""
        check_probabilities(self.name, values)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Thinning:
        """Each input's factor."""
        return magprune_factors(blocks, values, shape)

    def combine(self, block: Block, values: Values, summary: Thinning) -> torch.Tensor:
        """The sum of the thinned task vectors, on the base."""
        return add_sum(block.base, magprune(block, values, summary), values)
