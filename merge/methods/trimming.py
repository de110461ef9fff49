"""Thinning of task vectors by magnitude over the whole tensor: TIES's first step, and Model Breadcrumbs'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from merge.methods.base import Block, Blocks
from merge.methods.task_vectors import RowSums, matching_factor
from merge.selection import NOTHING, Cut, cuts, histograms, keep_largest_


@dataclass(frozen=True)
class Counts:
    """How many elements of the largest magnitude are dropped as outliers, and how many after them are kept."""

    outliers: int
    kept: int


@dataclass(frozen=True)
class Trimming:
    """What is kept of one task vector: the elements within `kept` but not within `outliers`, times `factor`."""

    outliers: Cut
    kept: Cut
    factor: float = 1.0

    def apply_(self, vector: torch.Tensor, first: int) -> torch.Tensor:
        """Trim a block in place; `first` is the index of its first element in the tensor."""
        extreme = None if self.outliers == NOTHING else keep_largest_(vector.clone(), first, self.outliers)
        keep_largest_(vector, first, self.kept)
        return vector if extreme is None else vector.sub_(extreme)


def find_trimmings(blocks: Blocks, counts: Sequence[Counts | None], rescale: bool) -> list[Trimming | None]:
    """The trimming of each input's task vector, None where all of it is kept (as it is, nothing to rescale).

    Two passes over the tensor, three with `rescale`, which takes the L1 norms; none where nothing is trimmed.
    """
    trimmed = [index for index, count in enumerate(counts) if count is not None]
    result: list[Trimming | None] = [None] * len(counts)
    if not trimmed:
        return result
    ranks = [(count.outliers, count.outliers + count.kept) for count in counts if count is not None]

    def vectors():
        for block in blocks():
            yield [block.inputs[index].sub_(block.base) for index in trimmed]

    for index, (outliers, kept) in zip(trimmed, cuts(vectors, histograms(vectors), ranks), strict=True):
        result[index] = Trimming(outliers, kept)
    return _rescaled(blocks, result) if rescale else result


def _rescaled(blocks: Blocks, trimmings: Sequence[Trimming | None]) -> list[Trimming | None]:
    before, after = ([RowSums() for _ in trimmings] for _ in range(2))
    for block in blocks():
        for index, trimming in enumerate(trimmings):
            if trimming is not None:
                vector = block.inputs[index].sub_(block.base).abs_()
                before[index].add(vector)
                after[index].add(trimming.apply_(vector, first_element(block)))
    return [
        trimming and Trimming(trimming.outliers, trimming.kept, matching_factor(whole.total, part.total))
        for trimming, whole, part in zip(trimmings, before, after, strict=True)
    ]


def trimmed(block: Block, trimmings: Sequence[Trimming | None]) -> list[torch.Tensor]:
    """The block's task vectors, trimmed and rescaled, in place of its inputs."""
    vectors = block.differences()
    for vector, trimming in zip(vectors, trimmings, strict=True):
        if trimming is not None:
            trimming.apply_(vector, first_element(block))
            if trimming.factor != 1.0:
                vector.mul_(trimming.factor)
    return vectors


def first_element(block: Block) -> int:
    """The index of the block's first element in the tensor."""
    return block.first * block.inputs[0].shape[1]
