"""What a train stage takes: memory, and what of the model trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adapt.planning.memory import Memory, memory_of
from adapt.planning.sketch import Sketch, Vocabulary, sketch
from adapt.training.rules import trainable_numbers

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapt.checkpoints import ModelLocation
    from adapt.stages.train import Train


@dataclass(frozen=True)
class TrainPlan:
    """A train stage's model without values, and its memory on a device."""

    stage: Train
    sketch: Sketch
    device: str
    bf16: bool

    @cached_property
    def memory(self) -> Memory:
        """The peak and its parts."""
        return memory_of(self.stage, self.sketch, self.device, self.bf16)

    @cached_property
    def trainable(self) -> dict[str, Any]:
        """How many numbers train, their share of the model and of its blocks, as the run counts them."""
        return trainable_numbers(self.sketch.model, self.sketch.rows)


def plan_train(
    stage: Train, config: PretrainedConfig, words: Vocabulary, location: ModelLocation, device: str, bf16: bool
) -> TrainPlan:
    """The plan of a train stage. Raises AdaptError where the method does not fit the model."""
    return TrainPlan(stage, sketch(stage, config, words, location, bf16), device, bf16)
