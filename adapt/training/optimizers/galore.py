"""GaLore: AdamW in a low-rank subspace of each matrix's gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from adapt.settings import Count, Positive, Share
from adapt.training.optimizer import BaseOptimizer, Groups, projected_bytes

if TYPE_CHECKING:
    import torch


class Galore(BaseOptimizer):
    """`W <- W - lr scale P Adam(P^T G)`, P the gradient's main directions. Zhao et al. 2024, arXiv 2403.03507.

    All weights train, but the moments of a matrix `[m, n]` have r rows or columns. Vectors, embeddings and matrices
    without more than r rows and columns have AdamW's.
    """

    kind: Literal["galore_adamw"]
    """AdamW whose moments live in a subspace of each gradient."""
    rank: Count = 128
    """Directions of the subspace."""
    every: Count = 200
    """Updates from one choice of the subspace to the next."""
    scale: Positive = 0.25
    """Factor on the update of a projected matrix."""
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
        """Ours: the public package's projections are objects that could only be pickled into a checkpoint."""
        from adapt.training.steps.galore import GaloreAdamW

        whole = frozenset(map(id, embeddings))
        return GaloreAdamW(
            groups, peak, whole, self.rank, self.every, self.scale, (self.beta1, self.beta2), self.epsilon
        )
