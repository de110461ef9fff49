"""`gaussian`: a new row is drawn from the normal distribution that has the old rows' mean and covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.settings import NonNegative
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, random_for

if TYPE_CHECKING:
    import numpy as np
    import torch

_CHUNK = 8192
"""Rows that are in float64 at once while the covariance is summed."""


class Gaussian(Initialisation):
    """A draw from the normal distribution with the mean and the full covariance of the old rows."""

    method: Literal["gaussian"] = "gaussian"
    """A draw from the normal distribution with the mean and the full covariance of the old rows."""
    scale: NonNegative = 1e-5
    """Factor of the covariance: at 1 new rows are spread like old ones, near 0 they are their mean."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `gaussian`; each side has its own mean, covariance and draw."""
        old = matrix[new.ordinary.to(matrix.device)]
        return gaussian(old, len(new.pieces), self.scale, random_for(new))


def gaussian(
    old: torch.Tensor, count: int, scale: float, random: np.random.Generator, chunk: int = _CHUNK
) -> torch.Tensor:
    """`row ~ N(mu, scale * Sigma)` of the old rows `[n, d]`; float32 `[count, d]`.

    Hewitt 2021 draws with a small scale, which tells new rows apart at the price of the mean; Mundra et al. 2024
    (arXiv 2407.05841) is a source for both. `Sigma = V diag(l) V^T` from sums in float64, `row = mu + sqrt(scale) z
    diag(sqrt(l)) V^T`, which needs no jitter where there are fewer old rows than dimensions.
    """
    import torch

    mean = old.double().mean(dim=0)
    total = mean.new_zeros(old.shape[1], old.shape[1])
    for part in old.split(chunk):
        centred = part.double() - mean
        total += centred.T @ centred
    values, vectors = torch.linalg.eigh(total / max(1, len(old) - 1))
    drawn = torch.from_numpy(random.standard_normal((count, old.shape[1]))).to(mean)
    return (mean + scale**0.5 * (drawn * values.clamp_min(0).sqrt()) @ vectors.T).float()
