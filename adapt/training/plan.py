"""The numbers of one run, and what it has counted so far."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.launch.world import ALONE, World
from adapt.training.optimizer import BaseOptimizer
from adapt.training.precision import Precision
from adapt.training.schedules.base import Schedule


@dataclass(frozen=True)
class Plan:
    """The numbers of one run. `offset` are updates that an earlier stage made on the same schedule.

    `batch_size` and `accumulation` are those of one process of `world`, which together read an update's rows.
    """

    steps: int
    batch_size: int
    accumulation: int
    schedule: Schedule
    optimizer: BaseOptimizer
    precision: Precision
    seed: int
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int
    gradient_checkpointing: bool
    activation_offloading: bool = False
    report_to: tuple[str, ...] = ()
    offset: int = 0
    world: World = ALONE

    @property
    def total(self) -> int:
        """Updates on the schedule, with those of the stage that this one goes on from."""
        return self.offset + self.steps


@dataclass
class Counts:
    """What a run has seen so far; part of its checkpoints."""

    tokens: int = 0
    """Positions that went through the model."""
    trained: int = 0
    """Positions that carried loss."""
    seconds: float = 0.0
