"""TIES: trim, elect sign, merge."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Values, elements
from merge.methods.sign_election import add_elected
from merge.methods.task_vectors import DENSITY, LAMBDA, WEIGHT, normalize, rescale
from merge.methods.trimming import Counts, Trimming, find_trimmings, trimmed


class Ties(Method):
    """Of each task vector d_i = input_i - base keep the `density` share of the tensor's largest magnitudes; then

    `base + lambda * sum_i w_i d_i [sign(w_i d_i) = s] / sum_i |w_i| [sign(w_i d_i) = s]`, s = sign(sum_i w_i d_i).

    Yadav et al. (NeurIPS 2023, arXiv 2306.01708); like mergekit it trims each tensor for itself, keeps
    max(1, floor(density * n)) of n elements and takes s = + where the sum is 0. Of magnitudes equal to the threshold
    (1 to 2 % of the elements of bfloat16 models) the first in the tensor are kept; which ones mergekit keeps is left
    to its sort. Differs from mergekit where a weight is negative: see `add_elected`.
    """

    name = "ties"
    base = "required"
    arguments = ("base", "models")
    parameters = (WEIGHT, DENSITY, normalize(True), rescale(False), LAMBDA)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[Trimming | None]:
        """Where each input's kept elements end."""
        counts = [largest(density, elements(shape)) for density in values["density"]]
        return find_trimmings(blocks, counts, values["rescale"])

    def combine(self, block: Block, values: Values, summary: list[Trimming | None]) -> torch.Tensor:
        """The elected mean of the trimmed task vectors, on the base."""
        return add_elected(block.base, trimmed(block, summary), values)


def largest(density: float, size: int) -> Counts | None:
    """At least one element for any density above 0; None: everything, as it is."""
    if density >= 1:
        return None
    return Counts(0, max(1, int(density * size)) if density > 0 else 0)
