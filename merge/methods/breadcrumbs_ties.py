"""Model Breadcrumbs with TIES's election of signs."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Values
from merge.methods.breadcrumbs import GAMMA, band_trimmings
from merge.methods.sign_election import add_elected
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, normalize, rescale
from merge.methods.trimming import Trimming, trimmed


class BreadcrumbsTies(Method):
    """Task vectors thinned as in `breadcrumbs`, of which the elements that agree with the elected sign are added.

    Davari and Belilovsky (arXiv 2312.06795) and Yadav et al. (arXiv 2306.01708), put together by mergekit.
    """

    name = "breadcrumbs_ties"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, GAMMA, normalize(False), rescale(False), LAMBDA)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[Trimming | None]:
        """Between which elements each input's kept ones lie."""
        return band_trimmings(blocks, values, shape)

    def combine(self, block: Block, values: Values, summary: list[Trimming | None]) -> torch.Tensor:
        """The elected sum of the trimmed task vectors, on the base."""
        return add_elected(block.base, trimmed(block, summary), values)
