"""Linear warm-up and linear decay."""

from __future__ import annotations

from typing import Literal

from adapt.settings import Share
from adapt.training.schedules.base import Schedule, progress, ramp


class Linear(Schedule):
    """Linear warm-up from 0 to the peak, then a straight line down to the floor."""

    kind: Literal["linear"] = "linear"
    """Linear warm-up, then a straight line down to the floor."""
    warmup: Share = 0.01
    """Warm-up, as a share of the run."""
    floor: Share = 0.0
    """The rate at the end, as a share of the peak."""

    def multiplier(self, step: float, total: int) -> float:
        """`t / W` up to W, then `1 - (1 - m) (t - W) / (T - W)` with floor m."""
        warm = self.warmup * total
        if step < warm:
            return ramp(step, warm)
        return 1 - (1 - self.floor) * progress(step, warm, total)
