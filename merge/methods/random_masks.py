"""Thinning of task vectors at random, with the L1 norm restored: what DARE and DELLA share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from merge.arrays import Array, numbers
from merge.budget import HELD
from merge.methods.base import Block, Blocks, elements
from merge.methods.task_vectors import RowSums, matching_factor

Draw = Callable[[Block, int, torch.Tensor], Array]
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
    sums = {index: (RowSums(), RowSums()) for index, density in enumerate(densities) if density < 1}
    result = no_thinning(len(densities))
    if not sums:
        return result
    for block in blocks():
        if block.first == 0 and block.inputs[0].device.type == "cpu":
            _hold(result, shape, block.inputs[0].shape[1], list(sums))
        for index, (before, after) in sums.items():
            vector = block.inputs[index].sub_(block.base)
            mask = draw(block, index, vector)
            before.add(vector.abs_())
            after.add(vector.mul_(numbers(mask)))
            if index in result.bits:
                result.bits[index][block.first : block.first + block.rows] = np.packbits(mask, axis=1)
    for index, (before, after) in sums.items():
        result.factors[index] = matching_factor(before.total, after.total)
    return result


def _hold(result: Thinning, shape: Sequence[int], width: int, inputs: Sequence[int]) -> None:
    """Room for the masks, in one piece each: many small ones among freed blocks leave holes that fit no block."""
    size = (elements(shape) // max(1, width), -(-width // 8))
    if HELD.lend(size[0] * size[1] * len(inputs), result):
        result.bits = {index: np.empty(size, dtype=np.uint8) for index in inputs}


def thinned(block: Block, densities: Sequence[float], thinning: Thinning, draw: Draw) -> list[torch.Tensor]:
    """The block's task vectors, thinned and rescaled, in place of its inputs."""
    vectors = block.differences()
    for index, (vector, density, factor) in enumerate(zip(vectors, densities, thinning.factors, strict=True)):
        if density < 1:
            vector.mul_(numbers(_mask(block, index, vector, thinning, draw)))
        if factor != 1.0:
            vector.mul_(factor)
    return vectors


def _mask(block: Block, index: int, vector: torch.Tensor, thinning: Thinning, draw: Draw) -> Array:
    if index not in thinning.bits:
        return draw(block, index, vector)
    rows = thinning.bits[index][block.first : block.first + block.rows]
    return np.unpackbits(rows, axis=1, count=vector.shape[1])
