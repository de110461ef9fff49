"""Linear warm-up, then one rate to the end."""

from __future__ import annotations

from typing import Literal

from adapt.settings import Share
from adapt.training.schedules.base import Schedule, ramp


class Constant(Schedule):
    """Linear warm-up from 0 to the peak, which then stays."""

    kind: Literal["constant"] = "constant"
    """Linear warm-up, then the peak rate to the end."""
    warmup: Share = 0.0
    """Warm-up, as a share of the run."""

    def multiplier(self, step: float, total: int) -> float:
        """`min(1, t / W)`."""
        return ramp(step, self.warmup * total)
