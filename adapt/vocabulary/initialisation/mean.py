"""`mean`: every new row is the mean of all old rows, with a little noise if that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.settings import NonNegative
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, random_for

if TYPE_CHECKING:
    import torch


class Mean(Initialisation):
    """The mean of the rows of all old pieces, the same for every new piece."""

    method: Literal["mean"] = "mean"
    """The mean of the rows of all old pieces, the same for every new piece."""
    noise: NonNegative = 0.0
    """Length of the normal noise added to each row, as a part of the mean length of an old row."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `mean_of_rows`; the noise is drawn for each side by itself."""
        import torch

        old = matrix[new.ordinary.to(matrix.device)].float()
        rows = mean_of_rows(old, len(new.pieces))
        if not self.noise:
            return rows
        drawn = torch.from_numpy(random_for(new).standard_normal(tuple(rows.shape))).to(rows)
        return rows + self.noise * old.norm(dim=1).mean() / old.shape[1] ** 0.5 * drawn


def mean_of_rows(old: torch.Tensor, count: int) -> torch.Tensor:
    """`row = 1/n * sum_i old[i]`, float32 `[count, d]` from the old rows `[n, d]`.

    Hewitt 2021 (Initializing New Word Embeddings for Pretrained Language Models). By Jensen's inequality the new
    logit, the mean of the old ones, adds at most `log(1 + count/n)` to the loss of a token of old text.
    """
    return old.float().mean(dim=0, keepdim=True).repeat(count, 1)
