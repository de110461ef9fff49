"""Thinning of task vectors at random, with the L1 norm restored: what DARE and DELLA share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from merge.methods.base import Block, Blocks, elements
from merge.methods.task_vectors import RowSums, matching_factor

HELD = 2**28
"""Mask bits of one tensor, over all inputs, that are held between the passes (32 MB); else masks are drawn twice."""

Draw = Callable[[Block, int, torch.Tensor], np.ndarray]
"""From a block, the index of an input and its task vector `[n, c]`: bool `[n, c]`, True where an element is kept. The
same for the same rows, however they are cut into blocks."""


@dataclass
class Thinning:
    """What the first pass found: a factor for each input, and the masks `[m, ceil(c / 8)]` in bits where held."""

    factors: list[float]
    bits: dict[int, np.ndarray] = field(default_factory=dict)


def no_thinning(count: int) -> Thinning:
    """Nothing to rescale and nothing drawn yet."""
    return Thinning([1.0] * count)


def restore_l1(blocks: Blocks, shape: Sequence[int], densities: Sequence[float], draw: Draw) -> Thinning:
    """Factors that give each thinned task vector the L1 norm `sum |d|` of the whole, from one pass over the tensor.

    Inputs of density 1 are not thinned, as mergekit does it.
    """
    thinned = [index for index, density in enumerate(densities) if density < 1]
    result = no_thinning(len(densities))
    if not thinned:
        return result
    held = elements(shape) * len(thinned) <= HELD
    sums = {index: (RowSums(), RowSums()) for index in thinned}
    parts: dict[int, list[np.ndarray]] = {index: [] for index in thinned}
    for block in blocks():
        for index, (before, after) in sums.items():
            vector = block.inputs[index].sub_(block.base)
            mask = draw(block, index, vector)
            before.add(vector.abs_())
            after.add(vector.mul_(_numbers(mask)))
            if held:
                parts[index].append(np.packbits(mask, axis=1))
    for index, (before, after) in sums.items():
        result.factors[index] = matching_factor(before.total, after.total)
        if held:
            result.bits[index] = np.concatenate(parts[index])
    return result


def thinned(block: Block, densities: Sequence[float], thinning: Thinning, draw: Draw) -> list[torch.Tensor]:
    """The block's task vectors, thinned and rescaled, in place of its inputs."""
    vectors = block.differences()
    for index, (vector, density, factor) in enumerate(zip(vectors, densities, thinning.factors, strict=True)):
        if density < 1:
            vector.mul_(_numbers(_mask(block, index, vector, thinning, draw)))
        if factor != 1.0:
            vector.mul_(factor)
    return vectors


def _mask(block: Block, index: int, vector: torch.Tensor, thinning: Thinning, draw: Draw) -> np.ndarray:
    if index not in thinning.bits:
        return draw(block, index, vector)
    rows = thinning.bits[index][block.first : block.first + block.rows]
    return np.unpackbits(rows, axis=1, count=vector.shape[1])


def _numbers(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.view(np.uint8)).to(torch.float32)
