"""What a router decides: how much each adapter counts at each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gates:
    """Weights of adapters at tokens.

    Dense: `weights [..., adapters]` and no `chosen`. Sparse: `weights [..., k]` and `chosen [..., k]`, the indices of
    the adapters that they belong to, each at most once in a token; all others count nothing. Weights are float32.
    """

    weights: torch.Tensor
    chosen: torch.Tensor | None = None

    def dense(self, count: int) -> torch.Tensor:
        """The weights of all `count` adapters, `[..., count]`."""
        if self.chosen is None:
            return self.weights
        shape = (*self.weights.shape[:-1], count)
        return torch.zeros(shape, dtype=self.weights.dtype, device=self.weights.device).scatter(
            -1, self.chosen, self.weights
        )
