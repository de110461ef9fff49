"""Held-out pairs while a run goes on: how often, and by how much, the preferred answer is the more likely one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapt.training.measuring import Measuring
from adapt.training.preference.reference import measure_pairs

if TYPE_CHECKING:
    from adapt.data.pairs import Pair
    from adapt.training.run import Run

Rewards = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From log-probabilities, reference and lengths, `[pairs, 2]` each, to the rewards of both answers, `[pairs, 2]`."""


class HeldOutPairs(Measuring):
    """Measures the held-out pairs of all sources together, whenever held-out text is measured."""

    name = "preference"

    def __init__(self, pairs: Sequence[Pair], rewards: Rewards, at: set[int]) -> None:
        super().__init__(at)
        self.pairs, self.rewards = pairs, rewards
        lengths = [[sum(pair["chosen_mask"]), sum(pair["rejected_mask"])] for pair in pairs]
        self.lengths = torch.tensor(lengths, dtype=torch.float32)
        self.reference = torch.zeros(len(pairs), 2)

    def measure_reference(self, model: Any, run: Run) -> None:
        """The log-probabilities under the model as it was before its first step."""
        self.reference = measure_pairs(model, self.pairs, run.plan.batch_size, run.collate, run.plan.precision)

    def measure(self) -> dict[str, float]:
        """Share of pairs whose preferred answer has the higher reward, and the mean difference of the rewards."""
        plan = self.run.plan
        found = measure_pairs(self.trainer.model, self.pairs, plan.batch_size, self.run.collate, plan.precision)
        rewards = self.rewards(found, self.reference, self.lengths)
        margins = rewards[:, 0] - rewards[:, 1]
        return {"accuracy": float((margins > 0).float().mean()), "margin": float(margins.mean())}

    def numbers(self) -> Mapping[str, Any]:
        """Accuracy and margin at the end, and their curves `[[tokens, value], ...]`."""
        events = self.run.log.read("preference")
        last = events[-1] if events else {}
        return {
            "pairs": len(self.pairs),
            **{name: last.get(name) for name in ("accuracy", "margin")},
            "curve": {name: [[event["tokens"], event[name]] for event in events] for name in ("accuracy", "margin")},
        }
