"""What a way to initialise new rows is: one matrix in, the new rows out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapt.settings import Settings

if TYPE_CHECKING:
    import torch

Side = Literal["input", "output"]


@dataclass(frozen=True)
class NewRows:
    """What is known of the rows to make.

    `pieces[i]` are the old ids that the i-th new piece is made of, in the order of the text; `ordinary` `[n]` are the
    rows of old pieces that were trained: no special tokens, no rows that belong to no token.
    """

    pieces: Sequence[Sequence[int]]
    ordinary: torch.Tensor
    side: Side
    seed: int


class Initialisation(Settings, ABC):
    """Base of all initialisations. One file each; `adapt.vocabulary.initialisation.INITIALISATIONS` is the table."""

    @abstractmethod
    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The new rows, float32 `[k, d]`, from the old matrix `[V, d]` of the same side (or the tied one)."""


def weighted_rows(
    matrix: torch.Tensor, pieces: Sequence[Sequence[int]], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """`row_i = sum_j weights[i][j] * matrix[pieces[i][j]]` in float32: `[k, d]` from `[V, d]`."""
    import torch

    indices = torch.tensor([index for piece in pieces for index in piece], device=matrix.device)
    lengths = torch.tensor([len(piece) for piece in pieces], device=matrix.device)
    owner = torch.repeat_interleave(torch.arange(len(pieces), device=matrix.device), lengths)
    scaled = matrix[indices].float() * torch.cat(list(weights)).to(matrix.device).float()[:, None]
    return matrix.new_zeros((len(pieces), matrix.shape[1]), dtype=torch.float32).index_add_(0, owner, scaled)
