"""`convex_hull`: a new row is a random point between the rows of the old pieces that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from adapt.settings import Positive
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, weighted_rows

if TYPE_CHECKING:
    import torch


class ConvexHull(Initialisation):
    """A random convex combination of the rows of the old pieces that a new piece is made of."""

    method: Literal["convex_hull"] = "convex_hull"
    """A random convex combination of the rows of the old pieces that a new piece is made of."""
    concentration: Positive = 1.0
    """Of the Dirichlet distribution of the weights: 1 draws them uniformly, larger values draw nearer to the mean."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `convex_hull`; both sides use the same weights, each on its own matrix."""
        return convex_hull(matrix, new.pieces, self.concentration, new.seed)


def convex_hull(
    matrix: torch.Tensor, pieces: Sequence[Sequence[int]], concentration: float = 1.0, seed: int = 0
) -> torch.Tensor:
    """`row = sum_i w_i * matrix[piece_i]`, `w ~ Dirichlet(concentration)`; float32 `[k, d]` from `[V, d]`.

    Mundra et al. 2024 (arXiv 2407.05841): rows inside the convex hull of the old ones leave greedy decoding as it
    was, since `min_i z_i <= u_new . h <= max_i z_i` for every hidden state h. Over the whole vocabulary the point
    would hardly differ from the mean of all rows, so it is drawn from the hull of the piece's own parts, where new
    pieces differ from each other (Dirichlet weights also tell apart pieces that are made of the same parts).
    """
    import numpy as np
    import torch

    random = np.random.default_rng(seed)
    weights = [torch.from_numpy(random.dirichlet([concentration] * len(piece))) for piece in pieces]
    return weighted_rows(matrix, pieces, weights)
