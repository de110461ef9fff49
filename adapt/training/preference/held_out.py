"""Held-out pairs while a run goes on: how often, and by how much, the preferred answer is the more likely one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapt.training.companion import Companion
from adapt.training.preference.reference import measure_pairs

if TYPE_CHECKING:
    from adapt.data.pairs import Pair
    from adapt.training.run import Run

Rewards = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From log-probabilities, reference and lengths, `[pairs, 2]` each, to the rewards of both answers, `[pairs, 2]`."""


class HeldOutPairs(Companion):
    """Measures the held-out pairs of all sources together, whenever held-out text is measured."""

    name = "preference"

    def __init__(self, pairs: Sequence[Pair], rewards: Rewards, at: set[int]) -> None:
        self.pairs, self.rewards, self.at = pairs, rewards, at
        lengths = [[sum(pair["chosen_mask"]), sum(pair["rejected_mask"])] for pair in pairs]
        self.lengths = torch.tensor(lengths, dtype=torch.float32)
        self.reference = torch.zeros(len(pairs), 2)

    def prepare(self, run: Run) -> None:
        """The run whose log takes the numbers."""
        self.run = run

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

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Before the first step."""
        if state.global_step == 0:
            self._note(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Where it is due."""
        if state.global_step in self.at:
            self._note(state.global_step)

    def _note(self, step: int) -> None:
        begun = time.perf_counter()
        self.run.log.write("preference", step=step, tokens=self.trainer.counts.tokens, **self.measure())
        self.trainer.counts.seconds -= time.perf_counter() - begun  # as for held-out text, not time of training

    def numbers(self) -> Mapping[str, Any]:
        """Accuracy and margin at the end, and their curves `[[tokens, value], ...]`."""
        events = self.run.log.read("preference")
        last = events[-1] if events else {}
        return {
            "pairs": len(self.pairs),
            **{name: last.get(name) for name in ("accuracy", "margin")},
            "curve": {name: [[event["tokens"], event[name]] for event in events] for name in ("accuracy", "margin")},
        }
