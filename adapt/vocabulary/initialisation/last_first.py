"""`last_first`: an input row from the last old piece, an output row from the first, corrected by counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from adapt.vocabulary.initialisation.base import Initialisation, NewRows, Side, evidence_for, weighted_rows
from adapt.vocabulary.initialisation.mean_of_pieces import mean_of_pieces, position_weights

if TYPE_CHECKING:
    import torch

_TIED = "last_first: input and output are one matrix, so the rows are those of mean_of_pieces"
_NO_DIRECTION = "last_first: no direction of the hidden states is constant, so the output rows are mean_of_pieces"


class LastFirst(Initialisation):
    """Input rows from a piece's last parts, where the model has read it; output rows from its first, with a prior.

    One matrix cannot be both, so tied rows are those of `mean_of_pieces`; the run says so.
    """

    method: Literal["last_first"] = "last_first"
    """Input rows from a piece's last parts, output rows from its first part with its share of that part's counts."""
    input: Literal["last", "exponential"] = "last"
    """The input row: the last part alone, or all parts, each half of the one behind it."""
    prior: bool = True
    """Whether output rows are lowered by how seldom the first part begins this piece in the corpus."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `position_weights` for the input, `first_with_prior` for the output."""
        if new.tied:
            return mean_of_pieces(matrix, new.pieces)
        if new.side == "input":
            return weighted_rows(matrix, new.pieces, [position_weights(len(piece), self.input) for piece in new.pieces])
        if not self.prior:
            return first_with_prior(matrix, new.pieces)
        evidence = evidence_for(new, "last_first")
        if not evidence.direction.is_constant:
            return mean_of_pieces(matrix, new.pieces)
        logs = log_shares(evidence.new_counts[list(new.ids)], evidence.old_counts[[piece[0] for piece in new.pieces]])
        return first_with_prior(matrix, new.pieces, logs, evidence.direction.vector)

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Nothing changes; how constant the direction of the prior is, and a note where the method stepped aside."""
        new = next(iter(sides.values()))
        if new.tied:
            return {"notes": [_TIED]}
        if "output" not in sides or not self.prior:
            return {}
        direction = evidence_for(new, "last_first").direction
        notes = {} if direction.is_constant else {"notes": [_NO_DIRECTION]}
        return {"prior": {"mean": direction.mean, "std": direction.std}} | notes


def log_shares(new: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """`log((new + 1/2) / (first + 1))`: how much of the first part's count is this piece, `[k]`, from counts `[k]`."""
    import torch

    return torch.log((new.float() + 0.5) / (first.float() + 1))


def first_with_prior(
    matrix: torch.Tensor,
    pieces: Sequence[Sequence[int]],
    logs: torch.Tensor | None = None,
    direction: torch.Tensor | None = None,
) -> torch.Tensor:
    """`row = matrix[first part] + log(share) * m`, float32 `[k, d]` from `[V, d]`.

    The old model's probability that the piece begins is that of its first part f; that it goes on to the end, the
    corpus tells: `share = count(piece) / count(f)`. With `h . m = 1` for all hidden states h the new logit is
    `z_f + log(share)`, so `P(piece) = P(f) * share`, but for the mass that all new rows take. Without `logs` the row
    is that of the first part.
    """
    rows = weighted_rows(matrix, pieces, [position_weights(len(piece), "first") for piece in pieces])
    if logs is None or direction is None:
        return rows
    return rows + logs.to(rows)[:, None] * direction.to(rows)
