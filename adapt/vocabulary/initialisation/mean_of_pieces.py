"""`mean_of_pieces`: a new row is the mean of the rows of the old pieces that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from adapt.vocabulary.initialisation.base import Initialisation, NewRows, weighted_rows

if TYPE_CHECKING:
    import torch


class MeanOfPieces(Initialisation):
    """The mean of the rows of the old pieces that a new piece is made of."""

    method: Literal["mean_of_pieces"] = "mean_of_pieces"
    """The mean of the rows of the old pieces that a new piece is made of."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `mean_of_pieces`."""
        return mean_of_pieces(matrix, new.pieces)


def mean_of_pieces(matrix: torch.Tensor, pieces: Sequence[Sequence[int]]) -> torch.Tensor:
    """`row = 1/n * sum_i matrix[piece_i]`, float32 `[k, d]` from `[V, d]`.

    Fast Vocabulary Transfer (Gee et al., EMNLP 2022 Industry Track). As an output row its logit is the mean of its
    pieces' logits, so the old arg-max is never beaten.
    """
    import torch

    return weighted_rows(matrix, pieces, [torch.full((len(piece),), 1 / len(piece)) for piece in pieces])
