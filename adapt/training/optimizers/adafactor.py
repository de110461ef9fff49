"""Adafactor: the second moment of a matrix as a row and a column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from adapt.settings import Share
from adapt.training.optimizer import BaseOptimizer, Groups, moment_bytes

if TYPE_CHECKING:
    import torch


class Adafactor(BaseOptimizer):
    """AdamW's second moment factorised, `v ~ r c^T / mean(r)`; transformers' own, at the schedule's rate.

    Shazeer and Stern 2018, arXiv 1804.04235. A matrix `[n, m]` has a state of n + m numbers, without momentum.
    """

    kind: Literal["adafactor"]
    """Adafactor, with a state that hardly takes memory."""
    beta1: Share | None = None
    """Decay of the first moment, which is a number for each weight. Empty: none is kept."""

    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """A row and a column of a matrix, and a moment where one is asked for."""
        first = moment_bytes(shape) if self.beta1 is not None else 0
        return first + (moment_bytes(shape) if len(shape) < 2 else 4 * (shape[0] + shape[1]))

    @property
    def moments(self) -> str:
        """They are not those of single weights."""
        return "are those of rows and columns"

    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """Without the rate that Adafactor makes up from the step and the weights' size."""
        from transformers.optimization import Adafactor as Step

        return Step(groups, lr=peak, beta1=self.beta1, scale_parameter=False, relative_step=False)
