"""Inner products of whole tensors, and what follows from them.

A point that is a linear combination of the inputs is its coefficients; its length and its angle to another such point
follow from the inputs' Gram matrix alone. So a method that moves about in the span of its inputs (a spherical mean, an
interpolation) needs one pass over them for that matrix, does its iterations on a few numbers, and one pass for the
combination that it arrived at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from merge.errors import MergeError
from merge.methods.base import Block, Blocks

Gram = list[list[float]]
"""`gram[i][j] = <x_i, x_j>`."""

RESOLUTION = 1e-6
"""A squared length that is a smaller share than this of the terms that it is the sum of counts as 0: the terms are
products in float32, so what is left of them is rounding."""

_WIDTH = 2**14
"""Columns summed at once. It is below the size from which torch cuts a sum among threads, so no sum depends on them."""

_STRETCH = 2**12
"""Columns of an inner product. It is below the length from which BLAS cuts one among threads."""

_ROWS = 2**12


def row_sums(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of each row of float32 `[n, c]`, float64 `[n]`; the same bits whichever rows stand beside it."""
    first, *others = (part.sum(dim=1, dtype=torch.float64) for part in tensor.split(_WIDTH, dim=1))
    return sum(others, first)


def row_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`<left[r], right[r]>` for each row r of two float32 `[n, c]`, float64 `[n]`.

    Stretches of columns are summed in float32, by as many partial sums as a register holds: that loses no more than
    the products have lost already. The stretches' sums are added in float64. In host memory numpy does it, whose
    inner products need no memory for the products.
    """
    if left.device.type != "cpu":
        first, *others = (part.sum(dim=1).double() for part in (left * right).split(_WIDTH, dim=1))
        return sum(others, first)
    a, b = left.numpy()[:, None, :], right.numpy()[:, :, None]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is met in the sums
        total = np.matmul(a[:, :, :_STRETCH], b[:, :_STRETCH]).astype(np.float64)
        for begin in range(_STRETCH, left.shape[1], _STRETCH):
            stretch = slice(begin, begin + _STRETCH)
            total += np.matmul(a[:, :, stretch], b[:, stretch])
    return torch.from_numpy(total.reshape(-1))


def points(block: Block) -> list[torch.Tensor]:
    """The vectors that a method with an optional base works on: task vectors where there is a base, else the inputs."""
    return block.inputs if block.base is None else block.differences()


def last_dimension(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A block `[n, c]` of a tensor of this shape as vectors `[n c / l, l]` along the tensor's last dimension l."""
    return tensor.view(-1, shape[-1] if shape else 1)


def gram(blocks: Blocks, vectors: Callable[[Block], Sequence[torch.Tensor]] = points) -> Gram:
    """The Gram matrix of a tensor's vectors, in one pass; `vectors` picks them from a block.

    Raises MergeError for numbers that are not finite: they have no angle. Does not depend on the cut into blocks.
    """
    pairs: dict[tuple[int, int], _Sum] = {}
    count = 0
    for block in blocks():
        found = vectors(block)
        count = len(found)
        for i in range(count):
            for j in range(i, count):
                pairs.setdefault((i, j), _Sum()).add(row_products(found[i], found[j]))
    total = {pair: rows.total() for pair, rows in pairs.items()}
    return [[total[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]


class _Sum:
    """A sum over rows that come in any portions: exact for each `_ROWS` of them, then for those sums."""

    def __init__(self) -> None:
        self.groups: list[float] = []
        self.rows: list[float] = []

    def add(self, values: torch.Tensor) -> None:
        self.rows += values.tolist()
        while len(self.rows) >= _ROWS:
            self.groups.append(_sum(self.rows[:_ROWS]))
            del self.rows[:_ROWS]

    def total(self) -> float:
        return _sum([*self.groups, *self.rows])


def _sum(values: Sequence[float]) -> float:
    try:
        total = math.fsum(values)
    except (OverflowError, ValueError):  # infinite ones of both signs
        total = math.nan
    if not math.isfinite(total):
        raise MergeError("an input holds a number that is not finite, or whose square is beyond float32")
    return total


def inner(left: Sequence[float], right: Sequence[float], matrix: Gram) -> float:
    """`<sum_i left[i] x_i, sum_j right[j] x_j>`."""
    return math.fsum(a * row[j] * b for a, row in zip(left, matrix, strict=True) for j, b in enumerate(right))


def length(point: Sequence[float], matrix: Gram) -> float:
    """`|sum_i point[i] x_i|`; 0 where the terms cancel beyond what their rounding lets one tell (`RESOLUTION`)."""
    terms = [a * row[j] * b for a, row in zip(point, matrix, strict=True) for j, b in enumerate(point)]
    square = math.fsum(terms)
    return math.sqrt(square) if square > RESOLUTION * math.fsum(map(abs, terms)) else 0.0


def cosine(product: float, left: float, right: float) -> float:
    """The cosine of two vectors from their inner product and their lengths; 0 where one has none."""
    return max(-1.0, min(1.0, product / left / right)) if left and right else 0.0


def combination(tensors: Sequence[torch.Tensor], coefficients: Sequence[float]) -> torch.Tensor:
    """`sum_i coefficients[i] * tensors[i]` in float32, in place of one of them. A coefficient of 0 leaves its tensor
    out, whatever that holds."""
    terms = [(tensor, factor) for tensor, factor in zip(tensors, coefficients, strict=True) if factor]
    if not terms:
        return tensors[0].zero_()
    result, first = terms[0]
    if first != 1:
        result.mul_(first)
    for tensor, factor in terms[1:]:
        result.add_(tensor, alpha=factor)
    return result


def mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """`sum_i shares[i] * tensors[i]` for shares that sum to 1, in place of one of the tensors.

    Computed from the tensor of the largest share (`x_p + sum_i shares[i] (x_i - x_p)`): the mean of equal tensors is
    that tensor and a share of 1 gives its tensor, bit for bit.
    """
    pivot = max(range(len(shares)), key=lambda i: abs(shares[i]))
    start = tensors[pivot]
    steps = [(tensor, share) for i, (tensor, share) in enumerate(zip(tensors, shares, strict=True)) if i != pivot]
    steps = [(tensor.sub_(start), share) for tensor, share in steps if share]
    for step, share in steps:
        start.add_(step, alpha=share)
    return start
