"""`random`: a new row points anywhere and is as long as some old row. The baseline that knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from adapt.settings import Positive
from adapt.vocabulary.initialisation.base import Initialisation, NewRows, random_for

if TYPE_CHECKING:
    import numpy as np
    import torch


class Random(Initialisation):
    """A random direction, as long as an old row; what every other method has to beat."""

    method: Literal["random"] = "random"
    """A random direction, as long as an old row; what every other method has to beat."""
    std: Positive | None = None
    """Standard deviation of a row's numbers; without it, each row takes the length of an old row drawn at random."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """See `random_rows`, or `N(0, std^2)` for every number where `std` is set."""
        import torch

        random = random_for(new)
        if self.std is not None:
            drawn = random.standard_normal((len(new.pieces), matrix.shape[1])) * self.std
            return torch.from_numpy(drawn).to(matrix.device, torch.float32)
        lengths = matrix[new.ordinary.to(matrix.device)].float().norm(dim=1)
        return random_rows(lengths, len(new.pieces), matrix.shape[1], random)


def random_rows(lengths: torch.Tensor, count: int, width: int, random: np.random.Generator) -> torch.Tensor:
    """`row = l * g / |g|`, `g ~ N(0, I)`, `l` drawn from the old rows' lengths `[n]`; float32 `[count, width]`.

    The scale of trained rows differs between models and between the two sides by factors of ten; taking it from the
    model keeps new rows from being silent or from drowning the others.
    """
    import torch

    rows = []
    for _ in range(count):
        row = torch.from_numpy(random.standard_normal(width))
        rows.append(row / row.norm() * float(lengths[int(random.integers(len(lengths)))]))
    drawn = torch.stack(rows) if rows else torch.zeros(0, width)
    return drawn.to(lengths.device, torch.float32)
