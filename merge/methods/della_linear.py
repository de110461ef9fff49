"""DELLA without the election of signs."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Values
from merge.methods.della import Della
from merge.methods.magprune import EPSILON, magprune
from merge.methods.random_masks import Thinning
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, add_sum, normalize, rescale


class DellaLinear(Della):
    """The sum of task vectors thinned as in `della`: `base + lambda * sum_i w_i f_i m_i d_i`.

    Deep, Bhardwaj and Poria (arXiv 2406.11617).
    """

    name = "della_linear"
    parameters = (WEIGHT, DENSITY, EPSILON, normalize(False), rescale(True), LAMBDA)

    def combine(self, block: Block, values: Values, summary: Thinning) -> torch.Tensor:
        """The sum of the thinned task vectors, on the base."""
        return add_sum(block.base, magprune(block, values, summary), values)
