"""The adapter that the data name, and no other."""

from __future__ import annotations

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.gating.scored import Site, SiteRouter
from adapt.mixture.observing import observe
from adapt.mixture.routing import Routing


class EnforcedRouter(SiteRouter):
    """Weight 1 for the adapter of the token's domain; for tokens without one `default`, -1 for no adapter."""

    def __init__(self, site: Site, default: int) -> None:
        super().__init__(site)
        self.default = default

    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """One-hot gates, or zero."""
        shape = inputs.shape[:-1]
        if routing.domains is None:
            domains = torch.full(shape, self.default, device=inputs.device)
        else:
            domains = torch.where(routing.domains >= 0, routing.domains, self.default)
        adapters = domains.clamp(min=0)
        weights = ((domains >= 0) & self.allowed[adapters]).float()
        gates = Gates(weights.unsqueeze(-1), adapters.unsqueeze(-1))
        if routing.observing:
            observe(self.path, gates, gates.dense(self.count), routing, {})
        return gates
