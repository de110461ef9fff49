"""SCE: select, calculate, erase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values, elements
from merge.methods.sign_election import elect
from merge.methods.task_vectors import RowSums
from merge.methods.trimming import first_element
from merge.selection import Cut, cuts, histograms, keep_largest_

_NO_SUM = 1e-6


@dataclass(frozen=True)
class Selection:
    """Where the elements of largest variance end (None: all of them count), and each input's coefficient."""

    cut: Cut | None
    coefficients: list[float]


class Sce(Method):
    """Weights from the task vectors themselves: those that change most count most.

    Select the `select_topk` share of the elements in which the task vectors d_i vary most (of those in which they vary
    at all); calculate a coefficient for each input, its share of the selected elements' mean squares; erase what
    disagrees with the sign of `sum_i d_i`:

    `base + sum_i c_i d_i [agrees] / sum_i c_i [agrees]`, c_i = mean(d_i^2) / sum_j mean(d_j^2).

    Wan et al., "FuseChat: Knowledge Fusion of Chat Models" (arXiv 2408.07990). As in mergekit coefficients are equal
    where the mean squares sum to less than 1e-6 - which they do for changes below 0.001 - and the divisor is at least
    1e-6. Takes two passes, two more where elements are selected.
    """

    name = "sce"
    base = "required"
    arguments = ("base", "models")
    parameters = (
        Parameter("select_topk", "Share of the elements, by variance, that are merged.", default=1.0, low=0, high=1),
    )

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Selection:
        """The cut and the coefficients."""
        cut = _cut(blocks, values["select_topk"]) if values["select_topk"] < 1 else None
        sums: list[RowSums] = []
        for block in blocks():
            vectors = _selected(block, cut)
            sums = sums or [RowSums() for _ in vectors]
            for own, vector in zip(sums, vectors, strict=True):
                own.add(vector.square_())
        return Selection(cut, _coefficients([own.total / elements(shape) for own in sums]))

    def combine(self, block: Block, values: Values, summary: Selection) -> torch.Tensor:
        """The weighted mean of what agrees, on the base."""
        coefficients = summary.coefficients
        total, divisor = elect(_selected(block, summary.cut), coefficients, coefficients)
        return block.base.add_(total.div_(divisor.clamp_(min=_NO_SUM)))


def _cut(blocks: Blocks, share: float) -> Cut:
    def variances():
        for block in blocks():
            yield [variance(block.differences())]

    (histogram,) = histograms(variances)
    count = int(torch.tensor(histogram.nonzero) * share)  # rounded in float32, as mergekit does
    return cuts(variances, [histogram], [(count,)])[0][0]


def variance(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """`sum_i (d_i - mean)^2 / k` of k vectors, element by element."""
    mean = vectors[0].clone()
    for vector in vectors[1:]:
        mean.add_(vector)
    mean.div_(len(vectors))
    result = torch.zeros_like(mean)
    for vector in vectors:
        deviation = vector - mean
        result.addcmul_(deviation, deviation)
    return result.div_(len(vectors))


def _selected(block: Block, cut: Cut | None) -> list[torch.Tensor]:
    """The task vectors, zero where they vary too little."""
    vectors = block.differences()
    if cut is not None:
        mask = keep_largest_(variance(vectors), first_element(block), cut).sign_()
        for vector in vectors:
            vector.mul_(mask)
    return vectors


def _coefficients(squares: Sequence[float]) -> list[float]:
    total = sum(squares)
    return [square / total if total >= _NO_SUM else 1 / len(squares) for square in squares]
