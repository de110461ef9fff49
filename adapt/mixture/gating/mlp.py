"""Scores of a small network, with one score for the layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from adapt.mixture.gates import Gates
from adapt.mixture.gating.running import running_mean
from adapt.mixture.gating.scored import Site, SiteRouter, accounted
from adapt.mixture.routing import Routing

if TYPE_CHECKING:
    from adapt.mixture.routers.mlp import Mlp


class MlpRouter(SiteRouter):
    """`softmax([scores of the adapters, score of the layer alone] / temperature)` without its last entry.

    Three linear layers with ReLU between them; the last one is zero at first.
    """

    def __init__(self, site: Site, settings: Mlp) -> None:
        super().__init__(site)
        self.temperature, self.span, self.reads = settings.temperature, settings.span, settings.reads
        width = settings.hidden
        self.first, self.second = nn.Linear(site.width, width), nn.Linear(width, width)
        self.last = nn.Linear(width, self.count + 1)
        self.dropout = nn.Dropout(settings.dropout)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """The gates; reports to `routing` what was asked for."""
        with torch.autocast(inputs.device.type, enabled=False):
            seen = inputs.float()
            if self.reads == "document":
                seen = running_mean(seen, self.path, routing, self.span)
            hidden = self.dropout(self.first(seen).relu())
            hidden = self.dropout(self.second(hidden).relu())
            scores = self.last(hidden) / self.temperature
            closed = torch.cat([~self.allowed, self.allowed.new_zeros(1)])
            scores = scores.masked_fill(closed, -torch.inf)
            return accounted(self.path, scores, Gates(scores.softmax(-1)[..., :-1]), routing, self.count)

    def take(self, other: SiteRouter, places: Sequence[int | None]) -> None:
        """The network as it was; of its last layer the rows of the adapters, and that of the layer alone."""
        own, theirs = self.state_dict(), other.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                if not name.startswith("last"):
                    tensor.copy_(theirs[name])
                    continue
                tensor[-1] = theirs[name][-1]
                for index, place in enumerate(places):
                    tensor[index] = 0 if place is None else theirs[name][place]
