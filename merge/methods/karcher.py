"""The Riemannian mean of models on the sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import RESOLUTION, Gram, combination, gram, inner, length


class Karcher(Method):
    """`mean_i |x_i|` times the point of the unit sphere nearest to all `u_i = x_i / |x_i|` by squared angles.

    Karcher, "Riemannian center of mass and mollifier smoothing" (1977); for models arXiv 2603.04972. From the mean
    direction m, gradient steps `m <- exp_m(mean_i log_m u_i)` until one is shorter than `tol`, `max_iter` at most:
    `log_m u = (a / sin a) (u - cos(a) m)` with the angle a of m and u, `exp_m v = cos|v| m + sin|v| v / |v|`.

    All inputs weigh the same. Inputs no longer than `tol` have no direction, but count in the mean length. An input
    opposite to m has no log; as in mergekit it takes no part in that step, and if all directions cancel, the first is
    where the search begins. One model is returned as it is.
    """

    name = "karcher"
    parameters = (
        Parameter("max_iter", "The most steps to take.", default=10, kind=int, low=0),
        Parameter(
            "tol", "The shortest step worth taking, and the length of a vector that counts as zero.", 1e-5, above=0
        ),
    )

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[float]:
        """The coefficient of each input in the mean."""
        matrix, tol = gram(blocks), values["tol"]
        if len(matrix) == 1:
            return [1.0]
        lengths = [math.sqrt(row[i]) for i, row in enumerate(matrix)]
        valid = [i for i, norm in enumerate(lengths) if norm > tol]
        coefficients = [0.0] * len(lengths)
        if valid:
            cosines = [[matrix[i][j] / lengths[i] / lengths[j] for j in valid] for i in valid]
            radius = math.fsum(lengths) / len(lengths)
            for i, part in zip(valid, spherical_mean(cosines, values["max_iter"], tol), strict=True):
                coefficients[i] = radius * part / lengths[i]
        return coefficients

    def combine(self, block: Block, values: Values, summary: list[float]) -> torch.Tensor:
        """The combination of the inputs that is their mean."""
        return combination(block.inputs, summary)


def spherical_mean(cosines: Gram, steps: int, tolerance: float) -> list[float]:
    """The coefficients in unit vectors of their Karcher mean, from the vectors' cosines."""
    count = len(cosines)
    start = [1 / count] * count
    norm = length(start, cosines)
    mean = [1.0] + [0.0] * (count - 1) if norm < tolerance else _scaled(start, 1 / norm)
    for _ in range(steps):
        step = _mean_of_logs(mean, cosines, tolerance)
        size = length(step, cosines)
        if size < tolerance:
            break
        mean = [math.cos(size) * m + math.sin(size) / size * s for m, s in zip(mean, step, strict=True)]
        norm = length(mean, cosines)
        if norm > tolerance:
            mean = _scaled(mean, 1 / norm)
    return mean


def _mean_of_logs(mean: Sequence[float], cosines: Gram, tolerance: float) -> list[float]:
    """`mean_i log_mean u_i`, as coefficients in u."""
    count = len(cosines)
    step = [0.0] * count
    for i in range(count):
        unit = [float(i == j) for j in range(count)]
        similarity = max(-1.0, min(1.0, inner(unit, mean, cosines)))
        angle = math.acos(similarity)
        if angle < tolerance or 1 + similarity < RESOLUTION:
            continue
        factor = angle / math.sin(angle) / count
        step = [s + factor * (u - similarity * m) for s, u, m in zip(step, unit, mean, strict=True)]
    return step


def _scaled(point: Sequence[float], factor: float) -> list[float]:
    return [factor * part for part in point]
