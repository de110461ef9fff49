"""Warm-up, stable, decay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from adapt.settings import Share
from adapt.training.schedules.base import Schedule, progress, ramp


class Wsd(Schedule):
    """Warm-up, a long constant stretch, and a short decay at the end.

    Hu et al. 2024, "MiniCPM"; the `1 - sqrt` decay is from Hägele et al. 2024, "Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations".
    """

    kind: Literal["wsd"] = "wsd"
    """Linear warm-up, constant, and a decay in the last part."""
    warmup: Share = 0.01
    """Warm-up, as a share of the run."""
    decay: Share = 0.15
    """The decay at the end, as a share of the run."""
    shape: Literal["linear", "cosine", "one_minus_sqrt"] = "one_minus_sqrt"
    """The form of the decay."""
    floor: Share = 0.0
    """The rate at the end, as a share of the peak."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Warm-up and decay must fit into the run."""
        if self.warmup + self.decay > 1:
            yield "decay", f"warmup {self.warmup:g} and decay {self.decay:g} together are more than the whole run"

    def multiplier(self, step: float, total: int) -> float:
        """`min(1, t / W)` up to D, then `m + (1 - m) d(u)`, `u = (t - D) / (T - D)`, d from 1 to 0 in its shape."""
        warm, begin = self.warmup * total, (1 - self.decay) * total
        if step < begin:
            return ramp(step, warm)
        u = progress(step, begin, total)
        falls = {"linear": 1 - u, "cosine": 0.5 * (1 + math.cos(math.pi * u)), "one_minus_sqrt": 1 - math.sqrt(u)}
        return self.floor + (1 - self.floor) * falls[self.shape]
