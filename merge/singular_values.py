"""Matrices of low rank: the truncated singular value decomposition, exact or at random."""

from __future__ import annotations

import torch

EXACT = 1024
"""The smaller side of a matrix up to which its decomposition is exact; larger ones are decomposed at random."""
_OVERSAMPLING, _ITERATIONS = 16, 4


def sum_of_squares(tensor: torch.Tensor) -> float:
    """The squared norm, summed in float64 without a copy."""
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def truncated_svd(matrix: torch.Tensor, rank: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest `rank` singular values of `[m, n]` and their vectors: U `[m, r]`, S `[r]`, Vᵀ `[r, n]`, float32.

    Exact where the smaller side is at most `EXACT`; else by a random range of `rank + 16` dimensions after 4 subspace
    iterations, seeded (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1).
    """
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(EXACT, rank + _OVERSAMPLING):
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank], s[:rank], vt[:rank]
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], rank + _OVERSAMPLING, generator=generator)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    u, s, vt = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ u[:, :rank], s[:rank], vt[:rank]


def factors(matrix: torch.Tensor, rank: int, energy: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """B `[m, k]` and A `[k, n]` with B A next to a matrix, k at most `rank`.

    With `energy` k is the least rank that holds this share of the squared norm, or `rank` where that is more. Singular
    values that are only rounding are left out, so a matrix of lower rank has factors of its own rank.
    """
    u, s, vt = truncated_svd(matrix, rank)
    whole = sum_of_squares(matrix)
    noise = max(matrix.shape) * torch.finfo(torch.float32).eps * float(s[0])
    count = max(1, int((s > noise).sum()))
    if energy is not None:
        held = s.double().square().cumsum(0) / whole
        count = min(count, int((held < energy).sum()) + 1)
    root = s[:count].sqrt()
    return (u[:, :count] * root).contiguous(), (root.unsqueeze(1) * vt[:count]).contiguous()
