"""A companion that measures something on held-out text or pairs whenever held-out text is measured."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from adapt.training.companion import Companion

if TYPE_CHECKING:
    from adapt.training.run import Run


class Measuring(Companion):
    """Writes what it measures into the run's log, before the first step and after the steps of `at`."""

    def __init__(self, at: set[int]) -> None:
        self.at = at

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """The numbers as the model stands; draws no random numbers."""

    def tell(self, step: int, numbers: dict[str, float]) -> None:
        """Say them on the screen."""

    def prepare(self, run: Run) -> None:
        """The run whose log takes the numbers."""
        self.run = run

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
        numbers = self.measure()
        self.run.log.write(self.name, step=step, tokens=self.trainer.counts.tokens, **numbers)
        self.tell(step, numbers)
        self.trainer.counts.seconds -= time.perf_counter() - begun  # as for held-out text, not time of training
