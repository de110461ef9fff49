"""How gates are used: how much each adapter weighs at each layer, how sure the gates are. Padding counts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.routing import Routing


@dataclass
class Observation:
    """Sums over the tokens of one gate's passes.

    `usage [adapters]` are summed weights, `first [adapters]` counts how often an adapter weighed most, `entropy []` is
    in nats, `tokens []` their number. `losses` are those of the last pass.
    """

    usage: torch.Tensor
    first: torch.Tensor
    entropy: torch.Tensor
    tokens: torch.Tensor
    losses: dict[str, torch.Tensor]

    def __add__(self, other: Observation) -> Observation:
        """The sums of both."""
        sums = (getattr(self, name) + getattr(other, name) for name in ("usage", "first", "entropy", "tokens"))
        return Observation(*sums, losses=other.losses)

    @property
    def average(self) -> torch.Tensor:
        """The mean weight of each adapter, `[adapters]`, in float32 on the CPU."""
        return (self.usage / self.tokens.clamp(min=1)).cpu()

    def numbers(self) -> dict[str, Any]:
        """Means over the tokens, for a log."""
        tokens = self.tokens.clamp(min=1)
        means = {"usage": self.usage / tokens, "first": self.first / tokens, "entropy": self.entropy / tokens}
        return {name: value.tolist() for name, value in means.items()}


@torch.no_grad()
def observe(
    path: str, gates: Gates, probabilities: torch.Tensor, routing: Routing, losses: Mapping[str, torch.Tensor]
) -> None:
    """Note the gates `[batch, length, ...]` of one layer in one pass, and `probabilities [batch, length, adapters]`."""
    count = probabilities.shape[-1]
    weights = gates.dense(count).detach().float().flatten(0, -2)
    spread = -torch.xlogy(probabilities, probabilities.clamp(min=1e-30)).sum(-1).flatten().float()
    kept = torch.ones_like(spread) if routing.valid is None else routing.valid.reshape(-1).float()
    most = torch.nn.functional.one_hot(weights.argmax(-1), count) * (weights.sum(-1, keepdim=True) > 0)
    sums = (kept @ weights, kept @ most.float(), kept @ spread, kept.sum())
    routing.observed.append((path, Observation(*sums, {name: value.detach() for name, value in losses.items()})))


def collected(routing: Routing) -> dict[str, Observation]:
    """What was observed so far, by the gates' places; nothing of it is left."""
    found: dict[str, Observation] = {}
    for path, observation in routing.observed:
        found[path] = found[path] + observation if path in found else observation
    routing.observed.clear()
    return found


@contextmanager
def observing(routing: Routing) -> Iterator[dict[str, Observation]]:
    """Observe the gates for the length of the block; the mapping, by their places, is filled at its end."""
    found: dict[str, Observation] = {}
    routing.observed.clear()
    routing.watched = True
    try:
        yield found
        found |= collected(routing)
    finally:
        routing.watched = False
        routing.observed.clear()


def observe_batches(model: Any, routing: Routing, batches: Iterable[Mapping[str, Any]]) -> dict[str, Observation]:
    """How the gates weigh the tokens of some batches (as the model takes them); the model is left as it was."""
    from adapt.evaluation.bits_per_byte import evaluating
    from adapt.training.loss import inputs_of

    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), observing(routing) as found:
        for batch in batches:
            model(**inputs_of({name: value.to(device) for name, value in batch.items()}))
    return found
