"""Model Breadcrumbs: task vectors without their outliers and without their smallest elements."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values, elements
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, add_sum, normalize, rescale
from merge.methods.trimming import Counts, Trimming, find_trimmings, trimmed

GAMMA = Parameter(
    "gamma", "Share of this model's largest changes that is dropped first.", default=0.01, each=True, low=0, high=1
)


class Breadcrumbs(Method):
    """Of each task vector drop the `gamma` share of largest magnitude in the tensor, keep the `density` share next to
    it and drop the rest: `base + lambda * sum_i w_i d_i [kept]`.

    Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks" (ECCV 2024, arXiv
    2312.06795). As in mergekit floor(density * n) of n elements stay whatever gamma is (where the two exceed n, fewer
    outliers are dropped), and a density of 1 keeps everything, outliers as well.
    """

    name = "breadcrumbs"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, GAMMA, normalize(False), rescale(False), LAMBDA)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[Trimming | None]:
        """Between which elements each input's kept ones lie."""
        return band_trimmings(blocks, values, shape)

    def combine(self, block: Block, values: Values, summary: list[Trimming | None]) -> torch.Tensor:
        """The sum of the trimmed task vectors, on the base."""
        return add_sum(block.base, trimmed(block, summary), values)


def band_trimmings(blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[Trimming | None]:
    """The trimming of each input by its density and gamma."""
    size = elements(shape)
    counts = [band(*shares, size) for shares in zip(values["density"], values["gamma"], strict=True)]
    return find_trimmings(blocks, counts, values["rescale"])


def band(density: float, gamma: float, size: int) -> Counts | None:
    """floor(density * size) kept elements below floor(gamma * size) outliers, or as many as there is room for."""
    if density >= 1:
        return None
    kept = int(density * size)
    return Counts(min(int(gamma * size), size - kept), kept)
