"""Scores by nearness: an input against one key for each adapter, both standardised."""

from __future__ import annotations

import torch
from torch import nn

from adapt.mixture.gates import Gates
from adapt.mixture.gating.scored import ScoredRouter, Site
from adapt.mixture.routing import Routing


class NearestRouter(ScoredRouter):
    """`scores = standard(key_e) . standard(x) / sqrt(in)`; standardised is without mean and with variance 1.

    The scores' form is that of Muqeeth et al. 2024, "Learning to Route Among Specialized Experts for Zero-Shot
    Generalization" (PHATGOOSE), arXiv 2402.05859. Where keys are learned, training sees only the adapter of a token's
    domain, weighted `sigmoid(key . x)`: a half at first, for keys begin at zero.
    """

    def __init__(self, site: Site, k: int | None, temperature: float, learned: bool) -> None:
        super().__init__(site, k, temperature)
        self.learned = learned
        zeros = torch.zeros(self.count, site.width)
        if learned:
            self.keys = nn.Parameter(zeros)
        else:
            self.register_buffer("keys", zeros)
        self._means: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """The gates; or, while keys are learned, the own adapter's."""
        if self._means is not None:
            self._add(*self._means, inputs.detach().float(), routing)
        if not (self.learned and self.training):
            return super().forward(inputs, routing)
        domains = routing.domains if routing.domains is not None else inputs.new_full(inputs.shape[:2], -1).long()
        adapters = domains.clamp(min=0)
        with torch.autocast(inputs.device.type, enabled=False):
            scores = nn.functional.linear(inputs.float(), self.keys).gather(-1, adapters.unsqueeze(-1))
        counts = ((domains >= 0) & self.allowed[adapters]).unsqueeze(-1)
        return Gates(scores.sigmoid() * counts, adapters.unsqueeze(-1))

    def scores(self, inputs: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Standardised products."""
        shape = inputs.shape[-1:]
        x, keys = nn.functional.layer_norm(inputs, shape), nn.functional.layer_norm(self.keys, shape)
        return nn.functional.linear(x, keys) / inputs.shape[-1] ** 0.5

    def begin_means(self) -> None:
        """From here on add up the inputs of each domain."""
        sums = torch.zeros_like(self.keys.data, dtype=torch.float64)
        self._means = sums, sums.new_zeros(self.count)

    @staticmethod
    def _add(sums: torch.Tensor, tokens: torch.Tensor, inputs: torch.Tensor, routing: Routing) -> None:
        if routing.domains is None:
            return
        counts = routing.domains >= 0
        counts = (counts if routing.valid is None else counts & routing.valid).flatten()
        rows = routing.domains.flatten()[counts]
        sums.index_add_(0, rows, inputs.flatten(0, 1)[counts].double())
        tokens.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))

    def end_means(self) -> torch.Tensor:
        """Set every key to the mean input of its domain; returns how many tokens each has seen, `[adapters]`."""
        if self._means is None:
            raise RuntimeError("end_means without begin_means")
        sums, tokens = self._means
        with torch.no_grad():
            self.keys.copy_(sums / tokens.clamp(min=1)[:, None])
        self._means = None
        return tokens
