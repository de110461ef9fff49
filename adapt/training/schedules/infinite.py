"""A schedule without a planned end: any number of stages can go on from its constant phase."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from adapt.errors import AdaptError
from adapt.settings import Positive, Share, Whole
from adapt.training.schedules.base import Schedule, progress, ramp


class Infinite(Schedule):
    """Warm-up, cool-down to a constant rate, constant phase of any length, and an exponential anneal at the end.

    Ibrahim et al. 2024 (as for `rewarm_cosine`); Singh et al. 2025, arXiv 2503.02844. The lengths are counted in
    updates, not in shares, so that a longer constant phase changes no earlier rate. The state just before the anneal is
    kept, and a later stage with `continue_from` goes on from it at the constant rate, without a new warm-up.
    """

    kind: Literal["infinite"] = "infinite"
    """Warm-up, cool-down, constant, and an annealed branch from which nothing has to be continued."""
    warmup: Whole = 100
    """Warm-up, in updates."""
    cooldown: Whole = 400
    """The way down from the peak to the constant rate, in updates."""
    shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """The form of the cool-down."""
    steepness: Positive = 10.0
    """How fast an `inverse_sqrt` cool-down falls at first (alpha in 1 / sqrt(1 + alpha u))."""
    constant: Share = Field(default=0.4, gt=0)
    """The rate of the constant phase, as a share of the peak."""
    anneal: Whole = 200
    """The exponential anneal at the end, in updates; 0 leaves it out."""
    floor: Share = Field(default=0.02, gt=0)
    """The rate at the end of the anneal, as a share of the peak."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """The anneal must go down."""
        if self.floor > self.constant:
            yield "floor", f"floor {self.floor:g} lies above constant {self.constant:g}, so the anneal would go up"

    def check(self, done: int, total: int) -> None:
        """Warm-up, cool-down and anneal must fit; after earlier stages only the anneal of this one must."""
        needed = self.anneal + (done or self.warmup + self.cooldown)
        if needed > total:
            raise AdaptError(
                f"schedule 'infinite' needs {needed - done:,} updates (warmup {self.warmup}, cooldown {self.cooldown}, "
                f"anneal {self.anneal}), this stage makes {total - done:,}; shorten them or raise tokens"
            )

    def anneal_begin(self, total: int) -> int:
        """The first update of the anneal, `T - A`."""
        return max(0, total - self.anneal)

    def _cooled(self, u: float) -> float:
        """From 1 at u = 0 to `constant` at u = 1, in the chosen shape."""
        if self.shape == "cosine":
            return self.constant + (1 - self.constant) * 0.5 * (1 + math.cos(math.pi * u))
        fall = (1 / math.sqrt(1 + self.steepness * u) - 1) / (1 / math.sqrt(1 + self.steepness) - 1)
        return 1 + (self.constant - 1) * fall

    def _before_anneal(self, step: float) -> float:
        if step < self.warmup:
            return ramp(step, self.warmup)
        return self._cooled(progress(step, self.warmup, self.warmup + self.cooldown))

    def multiplier(self, step: float, total: int) -> float:
        """`s / W`; cosine or `1 + (r - 1) h(u) / h(1)`; r; `r (m / r)^((s - A) / (T - A))`.

        Peak 1, constant r, floor m, warm-up W, begin of the anneal A, `h(u) = 1 / sqrt(1 + a u) - 1` with steepness a.
        Where the anneal begins before the constant phase is reached, it starts from the rate that is reached there.
        """
        begin = self.anneal_begin(total)
        if step <= begin or not self.anneal:
            return self._before_anneal(step)
        start = max(self._before_anneal(begin), self.floor)
        return start * (self.floor / start) ** progress(step, begin, total)
