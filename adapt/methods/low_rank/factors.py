"""Low-rank updates as pairs of factors `B [out, r]`, `A [r, in]` in float32, their scale in B: sums and starts.

A sum of updates is exact: `B_1 A_1 + B_2 A_2 = [B_1 B_2] [A_1; A_2]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Factors = tuple[torch.Tensor, torch.Tensor]
LOFTQ_ROUNDS = 5
"""How often LoftQ quantises and decomposes in turn; the paper's number."""


def add(parts: Sequence[Factors]) -> Factors:
    """The sum of updates, of the sum of their ranks; of the smaller side's where that is less.

    At that size one factor is the identity and the other the update itself.
    """
    b, a = torch.cat([b for b, _ in parts], 1), torch.cat([a for _, a in parts], 0)
    height, width = b.shape[0], a.shape[1]
    if b.shape[1] <= min(height, width):
        return b, a
    return (torch.eye(height), b @ a) if height < width else (b @ a, torch.eye(width))


def negative(part: Factors) -> Factors:
    """`-B A`."""
    return -part[0], part[1]


def truncate(part: Factors, rank: int) -> Factors:
    """The best approximation of `B A` of a lower rank, by two thin QR decompositions and the SVD of their core."""
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(part[0]), torch.linalg.qr(part[1].T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    root = s[:rank].sqrt()
    return q_b @ (u[:, :rank] * root), (v[:rank] * root[:, None]) @ q_a.T


def pissa(weight: torch.Tensor, rank: int) -> Factors:
    """The principal part of a weight: `U_r sqrt(S_r)`, `sqrt(S_r) V_r^T` of `W = U S V^T`.

    Meng et al. 2024, "PiSSA", arXiv 2404.02948.
    """
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, v[:rank] * root[:, None]


def olora(weight: torch.Tensor, rank: int) -> Factors:
    """The first columns of Q and rows of R of `W = Q R`: an orthonormal B.

    Büyükakyüz 2024, "OLoRA", arXiv 2406.01775.
    """
    q, r = torch.linalg.qr(weight.float())
    return q[:, :rank].contiguous(), r[:rank].contiguous()


def loftq(weight: torch.Tensor, rank: int, quantised: Callable[[torch.Tensor], torch.Tensor]) -> Factors:
    """Factors such that `Q(W - B A) + B A` comes close to W: quantise and decompose the error, in turn.

    `quantised` rounds a weight to what 4 bits can say. Li et al. 2023, "LoftQ", arXiv 2310.08659, algorithm 1.
    """
    b, a = weight.new_zeros(weight.shape[0], rank), weight.new_zeros(rank, weight.shape[1])
    for _ in range(LOFTQ_ROUNDS):
        b, a = pissa(weight - quantised(weight - b @ a), rank)
    return b, a
