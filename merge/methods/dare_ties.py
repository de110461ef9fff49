"""DARE with TIES's election of signs."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Values
from merge.methods.dare_linear import DareLinear, dare
from merge.methods.random_masks import Thinning
from merge.methods.sign_election import add_elected


class DareTies(DareLinear):
    """Task vectors thinned as in `dare_linear`, of which the elements that agree with the elected sign are added.

    Yu et al. (arXiv 2311.03099) and Yadav et al. (arXiv 2306.01708).
    """

    name = "dare_ties"

    def combine(self, block: Block, values: Values, summary: Thinning) -> torch.Tensor:
        """The elected sum of the thinned task vectors, on the base."""
        return add_elected(block.base, dare(block, values, summary), values)
