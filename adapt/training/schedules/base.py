"""What a learning-rate schedule is: a pure function from the place in the run to a multiplier of the peak rate.

Update number n of a run (from 0) covers the stretch from n to n + 1 and uses the schedule at its middle, n + 1/2. So no
update is wasted on a rate of 0 at either end of a schedule that begins or ends there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from adapt.settings import Positive, Settings


class Schedule(Settings, ABC):
    """Base of all schedules: the peak rate, and the curve below it."""

    peak: Positive = 3e-4
    """The highest learning rate of the run."""

    @abstractmethod
    def multiplier(self, step: float, total: int) -> float:
        """The rate at `step` (0 to `total`, in optimiser updates) as a share of `peak`, from 0 to 1."""

    def rate(self, update: int, total: int) -> float:
        """The multiplier that update number `update` of `total` (from 0) uses."""
        return self.multiplier(update + 0.5, total)

    def check(self, done: int, total: int) -> None:
        """Raise AdaptError where a run of `total` updates, `done` of them before this stage, is too short."""
        return

    def anneal_begin(self, total: int) -> int | None:
        """The update before which the state is kept for later stages; None where the schedule has no such point."""
        return None


def ramp(step: float, length: float) -> float:
    """Linear warm-up `step / length`, 1 from `length` on."""
    return min(1.0, step / length) if length > 0 else 1.0


def progress(step: float, begin: float, end: float) -> float:
    """How far `step` is on the way from `begin` to `end`, held between 0 and 1."""
    if end <= begin:
        return 1.0 if step >= end else 0.0
    return min(1.0, max(0.0, (step - begin) / (end - begin)))
