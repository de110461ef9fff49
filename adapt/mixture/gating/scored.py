"""A gate that scores every adapter: the scores' softmax, over all or over the k best, is what they weigh."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.observing import observe
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors


@dataclass(frozen=True)
class Site:
    """Where a gate stands: the module's path, the width of its input, and the factors of all adapters there.

    A gate that several layers share has no factors of its own; `names` are all adapters in any case.
    """

    path: str
    width: int
    names: tuple[str, ...]
    factors: Mapping[str, Factors | None] | None = None
    closed: frozenset[str] = field(default_factory=frozenset)

    def allowed(self) -> torch.Tensor:
        """Which adapters may weigh anything, `[adapters]`.

        One without an update of this layer may: a token that is its own gets no other adapter's update instead.
        """
        return torch.tensor([name not in self.closed for name in self.names])


class SiteRouter(Router):
    """A router that knows where it stands. Every saved tensor of it is `[adapters, ...]`."""

    allowed: torch.Tensor

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.path, self.count = site.path, len(site.names)
        self.register_buffer("allowed", site.allowed(), persistent=False)
        self.closed = bool(site.closed)

    def take(self, other: SiteRouter, places: Sequence[int | None]) -> None:
        """Take over what another gate of the same kind learned; adapter i stands at `places[i]` there, or nowhere."""
        own, theirs = self.state_dict(), other.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                for index, place in enumerate(places):
                    tensor[index] = 0 if place is None else theirs[name][place]


class ScoredRouter(SiteRouter):
    """Gates `softmax(scores / temperature)` over all adapters, or over the k with the highest scores.

    With k = 1 the weight is the softmax over all, else it would be 1 whatever the scores and nothing could be learned.
    """

    def __init__(self, site: Site, k: int | None, temperature: float) -> None:
        super().__init__(site)
        self.k, self.temperature = k, temperature

    @abstractmethod
    def scores(self, inputs: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Scores `[batch, length, adapters]` in float32 of inputs `[batch, length, in]` in float32."""

    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """The gates; reports to `routing` what was asked for."""
        with torch.autocast(inputs.device.type, enabled=False):
            scores = self.scores(inputs.float(), routing)
            scores = scores if self.temperature == 1 else scores / self.temperature
            scores = scores.masked_fill(~self.allowed, -torch.inf) if self.closed else scores
            return accounted(self.path, scores, chosen(scores, self.k), routing)


def chosen(scores: torch.Tensor, k: int | None) -> Gates:
    """The gates that scores `[..., adapters]` mean."""
    if k is None or k >= scores.shape[-1]:
        return Gates(scores.softmax(-1))
    best, adapters = scores.topk(k, dim=-1)
    weights = scores.softmax(-1).gather(-1, adapters) if k == 1 else best.softmax(-1)
    return Gates(weights, adapters)


def accounted(path: str, scores: torch.Tensor, gates: Gates, routing: Routing, count: int | None = None) -> Gates:
    """The gates with the losses that are asked for, and observed where that is asked for.

    Only the first `count` scores are adapters', where it is given; the others are of no adapter.
    """
    found = {}
    if routing.losses is not None and gates.weights.requires_grad:
        found = routing.losses(scores, gates, routing.valid, routing.domains)
        total = routing.losses.total(found)
        if total is not None:
            from adapt.mixture.losses import with_loss

            gates = Gates(with_loss(gates.weights, total), gates.chosen)
    if routing.observing:
        probabilities = scores.detach().softmax(-1)  # saves nothing for the backward pass
        observe(path, gates, probabilities[..., :count], routing, found)
    return gates
