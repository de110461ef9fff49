"""MAGPRUNE: keep an element with a probability that rises with the rank of its magnitude within its row."""

from __future__ import annotations

import numpy as np
import torch

from merge.arrays import Array, array, sorted_rows
from merge.errors import MergeError
from merge.methods.base import Block, Blocks, Parameter, Values
from merge.methods.random_masks import Thinning, no_thinning, restore_l1, thinned

EPSILON = Parameter(
    "epsilon",
    "How far the probability to be kept moves from density, down at a row's smallest element and up at its largest.",
    default=0.15,
    each=True,
    low=0,
    high=0.5,
)

_OCTAVES = 16
_DROPPED_BITS = 11
"""Of float32's 23 bits of mantissa; 12 stay, so that 16 octaves fill 16 bits."""
_SMALLEST = -(2**15)


def check_probabilities(name: str, values: Values) -> None:
    """Raise MergeError unless density +- epsilon is in (0, 1)."""
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if 0 < density < 1 and not epsilon < density < 1 - epsilon:
            raise MergeError(
                f"{name}: density {density:g} with epsilon {epsilon:g} gives probabilities from {density - epsilon:g} "
                f"to {density + epsilon:g}; choose epsilon below {min(density, 1 - density):g}"
            )


def magprune_factors(blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Thinning:
    """The factor that restores each task vector's L1 norm."""
    densities = values["density"]
    return restore_l1(blocks, shape, densities, _drawing(values)) if values["rescale"] else no_thinning(len(densities))


def magprune(block: Block, values: Values, summary: Thinning) -> list[torch.Tensor]:
    """The block's task vectors, thinned and rescaled."""
    return thinned(block, values["density"], summary, _drawing(values))


def _drawing(values: Values):
    densities, epsilons = values["density"], values["epsilon"]

    def draw(block: Block, index: int, vector: torch.Tensor) -> Array:
        return keep(vector, block.uniform(index), densities[index], epsilons[index])

    return draw


def keep(vector: torch.Tensor, uniform: torch.Tensor, density: float, epsilon: float) -> Array:
    """Bool `[n, c]`: kept with probability `p = density - epsilon + 2 epsilon r / (c - 1)`.

    r is the rank of `|v|` in its row, 0 for the smallest; among equals each order is as likely, which makes their
    probability that of their mean rank. `uniform` is drawn from [0, 1), and overwritten. No element is ranked: u < p
    is solved for r, q = (u - density + epsilon) (c - 1) / (2 epsilon) < r. With q = j - 1/2 + f, 0 <= f < 1, what
    lies above the row's element of rank j is kept, and what equals it while f < 1/2: without ties just what q < r
    says, and of tied elements as many as their mean rank demands, f being a fair coin.
    """
    rows, columns = vector.shape
    if columns == 1 or epsilon == 0 or density <= 0:
        return array(uniform) < float(np.float32(density))
    keys = _keys(vector)
    ascending = sorted_rows(keys)
    places = uniform.sub_(density - epsilon).mul_((columns - 1) / epsilon).add_(1)  # 2 (j + f)
    places = places.clamp_(0, 2 * columns).to(torch.int32).clamp_(max=2 * columns - 1)
    tails = (places & 1).to(torch.int16)  # f >= 1/2
    begins = torch.arange(rows, dtype=torch.int32, device=vector.device).mul_(columns).unsqueeze(1)
    places.bitwise_right_shift_(1).add_(begins)
    to_reach = ascending.view(-1).index_select(0, places.view(-1)).view(rows, columns).add_(tails)
    return array(keys) >= array(to_reach)


def _keys(vector: torch.Tensor) -> torch.Tensor:
    """Magnitudes as int16 in their order, to 12 bits behind the point and 16 octaves below the row's largest.

    A radix sort of 16 bits takes 3 ns an element at any length of the row. Differences of bfloat16 weights rarely have
    more bits; elements that agree in all of them count as equal.
    """
    bits = vector.view(torch.int32) & 0x7FFFFFFF
    bits.sub_(bits.amax(dim=1, keepdim=True)).add_((_OCTAVES << 23) - (1 << _DROPPED_BITS) - 1).clamp_(min=0)
    return bits.bitwise_right_shift_(_DROPPED_BITS).add_(_SMALLEST).to(torch.int16)
