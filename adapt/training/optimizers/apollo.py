"""APOLLO: SGD scaled like AdamW, the scale estimated in a random projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Positive
from adapt.training.optimizers.projected import ProjectedOptimizer

if TYPE_CHECKING:
    from adapt.training.steps.apollo import ApolloAdamW


class Apollo(ProjectedOptimizer):
    """`W <- W - lr scale G diag(s)`, `s_j = |Adam(P G)_j| / |(P G)_j|`, P random. Zhu et al. 2024, arXiv 2412.05270.

    The moments of a matrix have r rows or columns and are used for the size of the update only. With `scales: tensor`
    and rank 1 this is APOLLO-Mini. Vectors, embeddings and matrices without more than r rows and columns have AdamW's.
    """

    kind: Literal["apollo_adamw"]
    """The gradient itself, at AdamW's length, which is estimated in a few random directions."""
    scales: Literal["channel", "tensor"] = "channel"
    """One length for each channel of the larger side, or one for the matrix."""
    scale: Positive = 1.0
    """Factor on the update of a projected matrix; the paper takes 1 for channels and sqrt(128) for one length."""

    def step_of(self, *settings: Any) -> ApolloAdamW:
        """APOLLO's; its random directions are a function of a seed, so that a killed run goes on with the same ones."""
        from adapt.training.steps.apollo import ApolloAdamW

        return ApolloAdamW(*settings, scales=self.scales)
