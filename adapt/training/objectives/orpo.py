"""Odds-ratio preference optimisation: learn one answer and turn away from the other, without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from adapt.training.objectives.preference import Preference

if TYPE_CHECKING:
    import torch

    from adapt.training.run import Run


class Orpo(Preference):
    """`-log p(y+) - beta log sigmoid(log odds(y+) - log odds(y-))`, `odds = p / (1 - p)`, p per token.

    Hong et al. 2024, arXiv 2403.07691, where beta is lambda; TRL's ORPOTrainer. The first term is an SFT loss, so a
    base model may be the start.
    """

    kind: Literal["orpo"] = "orpo"
    """The preferred one of two answers, and away from the other, in one stage from a base model."""

    def rewards(self, found: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`beta` times the mean log-probability of an answer's tokens."""
        return self.beta * found / lengths

    def trainer(self, run: Run, callbacks: Sequence[Any]) -> Any:
        """ORPOTrainer on pairs that are tokenised already."""
        from adapt.training.preference.trainers import PairORPOTrainer

        return PairORPOTrainer(run, {"beta": self.beta}, self.held_out(run), callbacks)
