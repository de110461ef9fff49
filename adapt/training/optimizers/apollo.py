"""APOLLO: SGD scaled like AdamW, the scale estimated in a random projection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from adapt.settings import Count, Positive, Share
from adapt.training.optimizer import BaseOptimizer, Groups, projected_bytes

if TYPE_CHECKING:
    import torch


class Apollo(BaseOptimizer):
    """`W <- W - lr scale G diag(s)`, `s_j = |Adam(P G)_j| / |(P G)_j|`, P random. Zhu et al. 2024, arXiv 2412.05270.

    The moments of a matrix have r rows or columns and are used for the size of the update only. With `scales: tensor`
    and rank 1 this is APOLLO-Mini. Vectors, embeddings and matrices without more than r rows and columns have AdamW's.
    """

    kind: Literal["apollo_adamw"]
    """The gradient itself, at AdamW's length, which is estimated in a few random directions."""
    rank: Count = 128
    """Random directions in which the moments are kept."""
    every: Count = 200
    """Updates from one drawing of the directions to the next."""
    scales: Literal["channel", "tensor"] = "channel"
    """One length for each channel of the larger side, or one for the matrix."""
    scale: Positive = 1.0
    """Factor on the update of a projected matrix; the paper takes 1 for channels and sqrt(128) for one length."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""

    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """Two moments of r rows or columns and the projection; of the rest AdamW's."""
        return projected_bytes(shape, self.rank, embedding)

    @property
    def moments(self) -> str:
        """They are not those of single weights."""
        return "are in a subspace that changes"

    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """Ours: its random directions are a function of a seed, so that a killed run goes on with the same ones."""
        from adapt.training.steps.apollo import ApolloAdamW

        whole = frozenset(map(id, embeddings))
        betas = (self.beta1, self.beta2)
        return ApolloAdamW(groups, peak, whole, self.rank, self.every, self.scale, self.scales, betas, self.epsilon)
