"""DARE with TIES's election of signs."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Values
from merge.methods.dare_linear import RESCALE_BY, check_norm, dare, dare_factors
from merge.methods.random_masks import Thinning
from merge.methods.sign_election import add_elected
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, normalize, rescale


class DareTies(Method):
    """Task vectors thinned as in `dare_linear`, of which the elements that agree with the elected sign are added.

    Yu et al. (arXiv 2311.03099) and Yadav et al. (arXiv 2306.01708).
    """

    name = "dare_ties"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, normalize(False), rescale(True), RESCALE_BY, LAMBDA)
    random = True

    def check(self, values: Values) -> None:
        """An unknown norm."""
        check_norm(self.name, values)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Thinning:
        """Each input's factor."""
        return dare_factors(blocks, values, shape)

    def combine(self, block: Block, values: Values, summary: Thinning) -> torch.Tensor:
        """The elected sum of the thinned task vectors, on the base."""
        return add_elected(block.base, dare(block, values, summary), values)
