"""APOLLO's step: the gradient, with each channel as long as Adam would make it in a random projection."""

from __future__ import annotations

from typing import Any, Literal

import torch

from adapt.training.steps.projected import ProjectedAdamW

_GROWTH = 1.01
"""The most by which an update may be longer than the one before it (the paper's norm-growth limiter)."""
_TINY = 1e-8


class ApolloAdamW(ProjectedAdamW):
    """`scale G diag(s)` with `s_j = |Adam(P G)_j| / |(P G)_j|` for each column j, or one s for all of them.

    `P [r, m]` is drawn from N(0, 1/r) by a seed of its own, so no other random number changes. Zhu et al. 2024, arXiv
    2412.05270, algorithm 1.
    """

    def __init__(self, *settings: Any, scales: Literal["channel", "tensor"]) -> None:
        super().__init__(*settings)
        self.scales = scales

    def directions(self, gradient: torch.Tensor, place: int, update: int) -> torch.Tensor:
        """Normal rows of variance 1/r, a function of the parameter's place and of the number of the drawing."""
        generator = torch.Generator().manual_seed(1_000_003 * (update // self.every) + place)
        drawn = torch.randn(self.rank, gradient.shape[0], generator=generator) / self.rank**0.5
        return drawn.to(gradient)

    def direction(self, gradient: torch.Tensor, projection: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        """`scale G diag(s)`, not much longer than the last one."""
        small = projection @ gradient
        wished = self.adam(small, state)
        over = 0 if self.scales == "channel" else (0, 1)
        lengths = wished.norm(dim=over) / (small.norm(dim=over) + _TINY)
        moved = self.scale * gradient * lengths
        length, before = float(moved.norm()), float(state.get("length", 0.0))
        if before and length > _GROWTH * before:
            moved, length = moved * (_GROWTH * before / length), _GROWTH * before
        state["length"] = length
        return moved
