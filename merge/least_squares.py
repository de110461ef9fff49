"""Linear maps between two spaces, fitted in float64 over rows that come block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from merge.errors import MergeError
from merge.parallel import at_once
from merge.scratch import scratch

LARGEST_CONDITION = 1e6
"""Singular values below the largest by this factor are rounding: the weights themselves have 24 bits at most."""
_PANEL = 256


@dataclass(frozen=True)
class Fit:
    """A map `W = I + change` from one space of `d` dimensions into another, and how well it is known.

    `rank` and `condition` are those of X, `residual` is `|X W - Y| / |Y|`, `unexplained` the part `|X W - Y| / |X - Y|`
    of the difference that no linear map gives (0 where X = Y).
    """

    change: torch.Tensor
    rows: int
    rank: int
    condition: float
    residual: float
    unexplained: float


class DeficientError(MergeError):
    """X does not have full column rank, so many maps fit alike."""

    def __init__(self, rows: int, rank: int, width: int, condition: float) -> None:
        super().__init__(
            f"the {rows} rows to learn from span {rank} of {width} dimensions (condition {condition:.1e}), so many "
            "maps fit them alike"
        )


def fit(blocks: Iterable[tuple[torch.Tensor, torch.Tensor]], width: int, ridge: float = 0.0) -> Fit:
    """`W = argmin |X W - Y|_F`, for X and Y `[n, d]` that come as pairs of blocks of rows, float64.

    Solved for the change `D = W - I` from the normal equations `(XᵀX + ridge m I) D = Xᵀ (Y - X)`, m the mean
    eigenvalue of XᵀX: equal spaces give the identity exactly, and a ridge draws the map towards it where X says
    nothing. One matrix `[d, d]` in float64 is held, however many rows there are; two more lie in files (`scratch`), and
    one of these is the result. It does not depend on the number of threads. Raises DeficientError where the condition
    of X is above `LARGEST_CONDITION` and there is no
    ridge, and MergeError for values that are not finite.
    """
    gram, cross = (scratch(width, width) for _ in range(2))
    rows, squares, moved = 0, 0.0, 0.0
    for x, y in blocks:
        squares += _square(y)
        change = y.sub_(x)
        moved += _square(change)
        _add_products(gram, x, x)
        _add_products(cross, x, change)
        rows += len(x)
    if not (squares < float("inf") and moved < float("inf")):
        raise MergeError("the rows to learn from hold NaN or infinity")
    eigenvalues = torch.linalg.eigvalsh(gram, UPLO="U").clamp_(min=0.0)
    largest = float(eigenvalues[-1])
    rank = int((eigenvalues > largest / LARGEST_CONDITION**2).sum()) if largest > 0 else 0
    least = float(eigenvalues[0])
    condition = (largest / least) ** 0.5 if least > 0 else float("inf")
    if rank < width and not ridge:
        raise DeficientError(rows, rank, width, condition)
    extra = ridge * float(eigenvalues.mean())
    gram.diagonal().add_(extra)
    gram.copy_(torch.linalg.cholesky(gram, upper=True))
    error = max(moved - _solve_(gram, cross, extra), 0.0) ** 0.5
    return Fit(cross, rows, rank, condition, _share(error, squares**0.5), _share(error, moved**0.5))


def _solve_(factor: torch.Tensor, cross: torch.Tensor, extra: float) -> float:
    """Put D with `(UᵀU) D = C` in the place of C, columns by columns; returns `<C, D> + extra |D|^2`."""
    explained = 0.0
    for panel in cross.split(_PANEL, dim=1):
        halfway = torch.linalg.solve_triangular(factor.T, panel, upper=False)
        solution = torch.linalg.solve_triangular(factor, halfway, upper=True)
        explained += float(panel.mul_(solution).sum()) + extra * _square(solution)
        panel.copy_(solution)
    return explained


def _square(values: torch.Tensor) -> float:
    return sum(float(torch.dot(row, row)) for row in values.unbind())


def _add_products(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """`total += leftᵀ right`, in panels of fixed size that threads share out; of `leftᵀ left` the upper half alone."""
    width = len(total)

    def add(first: int) -> None:
        panel, columns = slice(first, min(first + _PANEL, width)), slice(first if left is right else 0, width)
        total[panel, columns].addmm_(left[:, panel].T, right[:, columns])

    at_once(add, range(0, width, _PANEL))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
