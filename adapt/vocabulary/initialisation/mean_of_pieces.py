"""`mean_of_pieces`: a new row is the mean, plain or weighted, of the rows of the old pieces that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side, evidence_for, weighted_rows

if TYPE_CHECKING:
    import torch

Weights = Literal["equal", "bytes", "last", "first", "exponential"]


class MeanOfPieces(Initialisation):
    """The mean of the rows of the old pieces that a new piece is made of."""

    method: Literal["mean_of_pieces"] = "mean_of_pieces"
    """The mean of the rows of the old pieces that a new piece is made of."""
    weights: Weights = "equal"
    """What a piece counts: `equal`, its `bytes` of text, only the `last` or the `first`, or `exponential`: each piece
    half of its neighbour, counted from the last piece for input and tied rows and from the first for output rows."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `mean_of_pieces`."""
        if self.weights == "bytes":
            lengths = evidence_for(new, "mean_of_pieces").piece_bytes
            return weighted_rows(matrix, new.pieces, [shares(lengths[list(piece)]) for piece in new.pieces])
        weights = [position_weights(len(piece), self.weights, new.side) for piece in new.pieces]
        return weighted_rows(matrix, new.pieces, weights)


def mean_of_pieces(matrix: torch.Tensor, pieces: Sequence[Sequence[int]]) -> torch.Tensor:
    """`row = 1/n * sum_i matrix[piece_i]`, float32 `[k, d]` from `[V, d]`.

    Fast Vocabulary Transfer (Gee et al., EMNLP 2022 Industry Track). As an output row its logit is the mean of its
    pieces' logits, so the old arg-max is never beaten.
    """
    return weighted_rows(matrix, pieces, [position_weights(len(piece), "equal") for piece in pieces])


def position_weights(length: int, kind: Weights, side: Side = "input") -> torch.Tensor:
    """Weights `[length]` of a piece's parts by their place; they sum to 1.

    `exponential` is `2^-k`, k the distance from the last part at the input, where the model has read the whole piece
    only at its last part, and from the first at the output, where the first part is what it predicts (AdaptiVocab,
    Nakash et al. 2025).
    """
    import torch

    place = torch.arange(length)
    if kind == "equal":
        return torch.full((length,), 1 / length)
    if kind == "exponential":
        return shares(2.0 ** -(place if side == "output" else place.flip(0)).float())
    return (place == (0 if kind == "first" else length - 1)).float()


def shares(numbers: torch.Tensor) -> torch.Tensor:
    """The numbers as parts of their sum."""
    return numbers.float() / numbers.sum()
