"""Re-warm and cosine re-decay, the usual schedule for continuing the training of a finished model."""

from __future__ import annotations

import math
from typing import Literal

from adapt.settings import Share
from adapt.training.schedules.base import Schedule, progress, ramp


class RewarmCosine(Schedule):
    """Linear warm-up from 0 to the peak, then half a cosine down to the floor.

    Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language Models".
    """

    kind: Literal["rewarm_cosine"] = "rewarm_cosine"
    """Linear warm-up, then a cosine down to the floor."""
    warmup: Share = 0.01
    """Warm-up, as a share of the run."""
    floor: Share = 0.1
    """The rate at the end, as a share of the peak."""

    def multiplier(self, step: float, total: int) -> float:
        """`t / W` up to W, then `m + (1 - m) (1 + cos(pi u)) / 2` with `u = (t - W) / (T - W)` and floor m."""
        warm = self.warmup * total
        if step < warm:
            return ramp(step, warm)
        u = progress(step, warm, total)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * u))
