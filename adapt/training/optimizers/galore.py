"""GaLore: AdamW in a low-rank subspace of each matrix's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Positive
from adapt.training.optimizers.projected import ProjectedOptimizer

if TYPE_CHECKING:
    from adapt.training.steps.galore import GaloreAdamW


class Galore(ProjectedOptimizer):
    """`W <- W - lr scale P Adam(P^T G)`, P the gradient's main directions. Zhao et al. 2024, arXiv 2403.03507.

    All weights train, but the moments of a matrix `[m, n]` have r rows or columns. Vectors, embeddings and matrices
    without more than r rows and columns have AdamW's.
    """

    kind: Literal["galore_adamw"]
    """AdamW whose moments live in a subspace of each gradient."""
    scale: Positive = 0.25
    """Factor on the update of a projected matrix."""

    def step_of(self, *settings: Any) -> GaloreAdamW:
        """GaLore's."""
        from adapt.training.steps.galore import GaloreAdamW

        return GaloreAdamW(*settings)
