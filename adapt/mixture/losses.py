"""Losses of gates: load balance, size of the scores, the data's own domains, sharpness. Padding counts nothing.

A gate's loss reaches the gradient through the gate's own weights (`with_loss`): the backward pass that reaches the
weights brings the loss's gradient with it. Nothing has to be carried out of the layer, so under gradient checkpointing
every loss counts exactly once, and a trainer need not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from adapt.mixture.gates import Gates


@dataclass
class Losses:
    """What each loss of a gate weighs in the whole; `scale` is one over the number of gates and of batches in an
    update."""

    balance: float = 0.0
    z_loss: float = 0.0
    supervision: float = 0.0
    entropy: float = 0.0
    scale: float = 1.0

    def __call__(
        self, scores: torch.Tensor, gates: Gates, valid: torch.Tensor | None, domains: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The losses that weigh anything, by name, unweighted."""
        found = {}
        if self.balance:
            found["balance"] = load_balance(scores.softmax(-1), _chosen(gates), valid)
        if self.z_loss:
            found["z_loss"] = z_loss(scores, valid)
        if self.supervision and domains is not None:
            found["supervision"] = supervised(scores, domains, valid)
        if self.entropy:
            found["entropy"] = entropy(scores.softmax(-1), valid)
        return found

    def total(self, found: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """The weighted sum, or None where there is nothing."""
        parts = [self.scale * getattr(self, name) * value for name, value in found.items()]
        return torch.stack(parts).sum() if parts else None


def _chosen(gates: Gates) -> torch.Tensor:
    """`[..., k]` adapters; of dense gates the one with the largest weight."""
    return gates.weights.argmax(-1, keepdim=True) if gates.chosen is None else gates.chosen


def _mean(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """The mean over tokens of `[batch, length, ...]` that are no padding."""
    flat = values.flatten(0, 1)
    if valid is None:
        return flat.mean(0)
    counts = valid.flatten().to(flat.dtype)
    return (flat * counts.view(-1, *[1] * (flat.dim() - 1))).sum(0) / counts.sum().clamp(min=1)


def load_balance(probabilities: torch.Tensor, chosen: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """`E sum_e F_e P_e`: 1 where all adapters are used alike, E where one takes everything with certainty.

    `F_e` is the share of (token, choice) that went to adapter e, so F sums to 1; `P_e` the mean probability;
    `probabilities [batch, length, E]`, `chosen [batch, length, k]`. Adapters whose probability is zero everywhere
    (closed ones) do not count in E. Fedus et al. 2021, "Switch Transformers", arXiv 2101.03961.
    """
    count = probabilities.shape[-1]
    picked = torch.nn.functional.one_hot(chosen, count).to(probabilities.dtype).mean(-2)
    shares, means = _mean(picked, valid).detach(), _mean(probabilities, valid)
    return (means > 0).sum() * (shares * means).sum()


def z_loss(scores: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """`mean(logsumexp(scores)^2)`. Zoph et al. 2022, "ST-MoE", arXiv 2202.08906."""
    return _mean(scores.logsumexp(-1).square(), valid)


def supervised(scores: torch.Tensor, domains: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy of `softmax(scores)` against the adapter that the data name, over tokens that have one.

    Tokens whose adapter is closed (score -inf) do not count. Xu et al. 2024, "MeteoRA", arXiv
    2405.13053.
    """
    labels = domains.clamp(min=0)
    picked = scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    counts = (domains >= 0) & picked.isfinite()
    counts = counts if valid is None else counts & valid
    losses = scores.logsumexp(-1) - picked.masked_fill(~counts, 0)
    return losses.masked_fill(~counts, 0).sum() / counts.sum().clamp(min=1)


def entropy(probabilities: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """`-sum_e p_e ln p_e` in nats, the mean over tokens."""
    return _mean(-torch.xlogy(probabilities, probabilities.clamp(min=1e-30)).sum(-1), valid)


class _WithLoss(torch.autograd.Function):
    """The weights as they are; their backward pass also brings the gradient of a loss."""

    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        ctx.like = loss.detach()
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient, torch.ones_like(ctx.like)


def with_loss(weights: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """The same weights; a backward pass through them adds the gradient of `loss` once."""
    return _WithLoss.apply(weights, loss)
