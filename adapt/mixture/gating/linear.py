"""Scores that are linear in the token's own vector."""

from __future__ import annotations

import torch
from torch import nn

from adapt.mixture.gating.scored import ScoredRouter, Site
from adapt.mixture.routing import Routing


class LinearRouter(ScoredRouter):
    """`scores = W x`, `W [adapters, in]` without a bias; drawn with a standard deviation of `spread`."""

    def __init__(self, site: Site, k: int | None, temperature: float, spread: float) -> None:
        super().__init__(site, k, temperature)
        self.weight = nn.Parameter(torch.randn(self.count, site.width) * spread)

    def scores(self, inputs: torch.Tensor, routing: Routing) -> torch.Tensor:
        """`W x` for each token."""
        return nn.functional.linear(inputs, self.weight)
