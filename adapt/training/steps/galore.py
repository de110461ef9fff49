"""GaLore's step: Adam on the gradient's coordinates in its own main directions."""

from __future__ import annotations

from typing import Any

import torch

from adapt.training.steps.projected import ProjectedAdamW


class GaloreAdamW(ProjectedAdamW):
    """`scale P^T Adam(P G)`, the rows of P the first r left singular vectors of a gradient `[m, n]`, `m <= n`.

    Zhao et al. 2024, arXiv 2403.03507, algorithm 2. The moments are kept when the subspace changes, as there.
    """

    def directions(self, gradient: torch.Tensor, place: int, update: int) -> torch.Tensor:
        """The first r left singular vectors, as rows."""
        left, _, _ = torch.linalg.svd(gradient, full_matrices=False)
        return left[:, : self.rank].T.contiguous()

    def direction(self, gradient: torch.Tensor, projection: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        """`scale P^T Adam(P G)`."""
        return self.scale * (projection.T @ self.adam(projection @ gradient, state))
