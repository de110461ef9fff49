"""Direct preference optimisation: prefer one answer to another, relative to the model as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Share
from adapt.training.objectives.preference import Preference

if TYPE_CHECKING:
    import torch

    from adapt.training.run import Run

Loss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
"""TRL's losses of single pairs. Those that compare the pairs of a batch would change with gradient accumulation."""
_SMOOTHED = ("robust", "exo_pair")


class Dpo(Preference):
    """`-log sigmoid(beta (log p(y+)/q(y+) - log p(y-)/q(y-)))`, q the model before its first step.

    Rafailov et al. 2023, arXiv 2305.18290; TRL's DPOTrainer. The log-probabilities under q are computed once, before
    step 1, so that no second model is in memory.
    """

    kind: Literal["dpo"] = "dpo"
    """The preferred one of two answers, relative to the model as it was."""
    loss: Loss = "sigmoid"
    """The loss of a pair, by TRL's names: DPO's own (`sigmoid`), SLiC's `hinge`, IPO's square (`ipo`), one for labels
    that may be wrong (`robust`), EXO, NCA, BCO, SPPO, APO, DiscoPOP, and DPO per token (`sigmoid_norm`)."""
    label_smoothing: Share = 0.0
    """How likely a label is wrong, for `robust` (below 0.5) and `exo_pair` (its paper takes 0.001)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Smoothing where there is none, and none where it is needed."""
        if self.label_smoothing and self.loss not in _SMOOTHED:
            yield "label_smoothing", f"loss '{self.loss}' has none; take loss robust or exo_pair, or leave it out"
        if self.loss == "exo_pair" and not self.label_smoothing:
            yield "label_smoothing", "loss 'exo_pair' needs one above 0; its paper takes 0.001"
        if self.loss == "robust" and self.label_smoothing >= 0.5:
            yield "label_smoothing", f"is {self.label_smoothing:g}; loss 'robust' needs one below 0.5"

    def rewards(self, found: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`beta log p(y)/q(y)`."""
        return self.beta * (found - reference)

    def trainer(self, run: Run, callbacks: Sequence[Any]) -> Any:
        """DPOTrainer over precomputed log-probabilities."""
        from adapt.training.preference.trainers import PairDPOTrainer

        settings = {"beta": self.beta, "loss_type": [self.loss], "label_smoothing": self.label_smoothing}
        return PairDPOTrainer(run, settings, self.held_out(run), callbacks)
