"""DARE: drop and rescale, then add."""

from __future__ import annotations

import numpy as np
import torch

from merge.arrays import Array, array
from merge.errors import MergeError
from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.random_masks import Thinning, no_thinning, restore_l1, thinned
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, add_sum, normalize, rescale

RESCALE_BY = Parameter(
    "rescale_by",
    "What rescale restores: l1, the sum of magnitudes (mergekit), or density, a factor of 1 / density (the paper).",
    default="l1",
    kind=str,
)


class DareLinear(Method):
    """Keep each element of a task vector with probability `density` and scale what is left, then add:

    `base + lambda * sum_i w_i f_i m_i d_i`, m_i ~ Bernoulli(density_i).

    Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch" (ICML
    2024, arXiv 2311.03099) have f = 1 / density, which restores each element's expectation (`rescale_by: density`, one
    pass over the tensor). mergekit, and the default here, restores the L1 norm: f = sum |d| / sum |m d|.
    """

    name = "dare_linear"
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
        """The sum of the thinned task vectors, on the base."""
        return add_sum(block.base, dare(block, values, summary), values)


def check_norm(name: str, values: Values) -> None:
    """Raise MergeError unless `rescale_by` is one of the two."""
    if values["rescale_by"] not in ("l1", "density"):
        raise MergeError(f"{name}: rescale_by is '{values['rescale_by']}'; it is l1 or density")


def dare_factors(blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Thinning:
    """The factor f of each input; 1 for what is kept whole or not at all."""
    densities = values["density"]
    if not values["rescale"]:
        return no_thinning(len(densities))
    if values["rescale_by"] == "density":
        return Thinning([1 / density if 0 < density < 1 else 1.0 for density in densities])
    return restore_l1(blocks, shape, densities, _drawing(values))


def dare(block: Block, values: Values, summary: Thinning) -> list[torch.Tensor]:
    """The block's task vectors, thinned and rescaled."""
    return thinned(block, values["density"], summary, _drawing(values))


def _drawing(values: Values):
    densities = values["density"]

    def draw(block: Block, index: int, vector: torch.Tensor) -> Array:
        return array(block.uniform(index)) < float(np.float32(densities[index]))

    return draw
