"""Scores without training: how strongly an input points along the direction that an adapter reacts to most."""

from __future__ import annotations

import torch

from adapt.mixture.gating.scored import ScoredRouter, Site
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors


def prototype(factors: Factors) -> torch.Tensor:
    """The first right singular vector `[in]` of `B A`, from two thin QR decompositions and the SVD of an r x r core.

    `A^T = Q_A R_A`, `B = Q_B R_B`, `B A = Q_B (R_B R_A^T) Q_A^T`; its sign is arbitrary. Zero where the update is.
    """
    b, a = factors.b.detach().float().cpu(), factors.a.detach().float().cpu()
    if not (b.any() and a.any()):
        return torch.zeros(a.shape[1])
    q, r_a = torch.linalg.qr(a.T)
    r_b = torch.linalg.qr(b).R
    return q @ torch.linalg.svd(r_b @ r_a.T).Vh[0]


class ArrowRouter(ScoredRouter):
    """`scores = |x . p_e|` with `p_e` the first right singular vector of adapter e's update of the layer.

    Ostapenko et al. 2024, "Towards Modular LLMs by Building and Reusing a Library of LoRAs", arXiv 2405.11157.
    """

    def __init__(self, site: Site, k: int | None, temperature: float) -> None:
        super().__init__(site, k, temperature)
        found = [(site.factors or {}).get(name) for name in site.names]
        rows = [torch.zeros(site.width) if factors is None else prototype(factors) for factors in found]
        self.register_buffer("prototypes", torch.stack(rows), persistent=False)

    def scores(self, inputs: torch.Tensor, routing: Routing) -> torch.Tensor:
        """`|P x|`."""
        return torch.nn.functional.linear(inputs, self.prototypes).abs()
