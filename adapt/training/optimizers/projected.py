"""What GaLore and APOLLO have in common: AdamW whose moments of matrices lie in a projection of the gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapt.settings import Count, Positive, Share
from adapt.training.optimizer import BaseOptimizer, Groups, moment_bytes

if TYPE_CHECKING:
    import torch

    from adapt.training.steps.projected import ProjectedAdamW


class ProjectedOptimizer(BaseOptimizer):
    """The moments of a matrix have r rows or columns. Ours, not the public packages': theirs keep projections as
    objects that could only be pickled into a checkpoint, and draw them from a state that a killed run loses."""

    rank: Count = 128
    """Directions in which the moments of a matrix are kept."""
    every: Count = 200
    """Updates from one choice of the directions to the next."""
    scale: Positive = 1.0
    """Factor on the update of a projected matrix."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""

    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """Of a matrix with m <= n: `P [r, m]` and the moments of `P G`, `[r, n]` each; of the rest AdamW's."""
        if embedding or len(shape) != 2 or min(shape) <= self.rank:
            return 2 * moment_bytes(shape)
        return 4 * self.rank * (min(shape) + 2 * max(shape))

    @property
    def moments(self) -> str:
        """They are not those of single weights."""
        return "are in a subspace that changes"

    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """The embeddings' moments are whole."""
        betas = (self.beta1, self.beta2)
        whole = frozenset(map(id, embeddings))
        return self.step_of(groups, peak, whole, self.rank, self.every, self.scale, betas, self.epsilon)

    @abstractmethod
    def step_of(self, *settings: Any) -> ProjectedAdamW:
        """The optimiser of torch's kind, from what `ProjectedAdamW` takes."""
