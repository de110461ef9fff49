"""Scores of a document so far: linear in the mean of its tokens' vectors up to the present one."""

from __future__ import annotations

import torch
from torch import nn

from adapt.mixture.gating.linear import LinearRouter
from adapt.mixture.gating.scored import Site
from adapt.mixture.routing import Routing


class RunningRouter(LinearRouter):
    """`scores_t = W mean(x_s; s <= t, same document)`, of the first `span` tokens where that is set.

    A linear function of the mean is the mean of the function, so only sums of scores are kept: `[batch, adapters]`
    beside the cache. Sums are in float64: those of earlier documents of a packed row cancel to the last digit of a
    float32.
    """

    def __init__(self, site: Site, k: int | None, temperature: float, span: int | None) -> None:
        super().__init__(site, k, temperature, 0.0)
        self.span = span

    def scores(self, inputs: torch.Tensor, routing: Routing) -> torch.Tensor:
        """The mean of `W x` over the document's tokens so far."""
        return running_mean(nn.functional.linear(inputs, self.weight), self.path, routing, self.span)


def running_mean(values: torch.Tensor, path: str, routing: Routing, span: int | None) -> torch.Tensor:
    """The mean of `values [batch, length, n]` over the document's tokens so far, the first `span` where that is set.

    What is needed for the tokens behind those in the cache is remembered under `path`.
    """
    own = values.double()
    counts = torch.ones_like(own[..., 0]) if routing.valid is None else routing.valid.double()
    kept = routing.memory.recall(path)
    sums, seen = kept if kept is not None else (torch.zeros_like(own[:, 0]), torch.zeros_like(own[:, 0, 0]))
    place = torch.arange(own.shape[1], device=own.device).expand(own.shape[:2])
    starts = torch.zeros_like(place, dtype=torch.bool) if routing.starts is None else routing.starts
    last = torch.where(starts, place, -1).cummax(1).values
    number = _since(counts, last, seen)
    if span is not None:
        counts = counts * (number <= span)
    total = _since(own * counts[..., None], last, sums)
    routing.memory.keep(path, total[:, -1], number[:, -1])
    if span is not None:
        number = number.clamp(max=span)
    return (total / number.clamp(min=1)[..., None]).float()


def _since(values: torch.Tensor, last: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Sums of `values [batch, length, ...]` from the document's first token, at `last [batch, length]`, to each token.

    Where `last` is -1 the document began before this pass, and `before [batch, ...]` is its sum up to there.
    """
    sums = values.cumsum(1)
    shape = (*last.shape, *[1] * (values.dim() - 2))
    places = last.clamp(min=0).view(shape).expand_as(values)
    earlier = (sums - values).gather(1, places)
    return sums - torch.where(last.view(shape) >= 0, earlier, -before.unsqueeze(1))
