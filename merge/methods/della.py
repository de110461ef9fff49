"""DELLA: drop by magnitude and chance, elect signs, fuse."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Values
from merge.methods.magprune import EPSILON, check_probabilities, magprune, magprune_factors
from merge.methods.random_masks import Thinning
from merge.methods.sign_election import add_elected
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, normalize, rescale


class Della(Method):
    """Task vectors thinned by MAGPRUNE, of which the elements that agree with the elected sign are averaged.

    An element is kept with probability `density - epsilon + 2 epsilon r / (c - 1)`, r its rank in its row of c
    elements, and what is kept of a task vector is scaled to the L1 norm of the whole. A row is one index of the first
    dimension; a vector is one row. Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging
    through Magnitude-Based Sampling" (2024, arXiv 2406.11617), who divide each element by its probability instead;
    the L1 norm is mergekit's. A row of one element is kept with probability `density` (mergekit fails on it).
    """

    name = "della"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, EPSILON, normalize(True), rescale(True), LAMBDA)
    random = True

    def check(self, values: Values) -> None:
        """Probabilities outside of (0, 1)."""
        check_probabilities(self.name, values)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Thinning:
        """Each input's factor."""
        return magprune_factors(blocks, values, shape)

    def combine(self, block: Block, values: Values, summary: Thinning) -> torch.Tensor:
        """The elected mean of the thinned task vectors, on the base."""
        return add_elected(block.base, magprune(block, values, summary), values)
