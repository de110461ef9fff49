"""What a method does beside the steps of a run: seen by the trainer, kept in checkpoints, told to the change check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from adapt.training.state import save_tensors

if TYPE_CHECKING:
    from adapt.training.run import Run
    from adapt.training.trainer import StreamTrainer


class Companion(TrainerCallback):
    """A callback of one run with a state of its own. `trainer` is set when it exists.

    A killed run goes on bit for bit when `restore(tensors())` brings a fresh companion to where this one stands.
    """

    name: ClassVar[str]
    """The name of its file in a checkpoint."""
    trainer: StreamTrainer

    def prepare(self, run: Run) -> None:
        """Before anything is fingerprinted. Raises AdaptError where the run and the companion do not go together."""

    def rate(self, update: int) -> float:
        """A factor on the learning rate of an update of this run, counted from 0."""
        return 1.0

    def batch(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A batch as the model and its loss are to see it; labels that are taken away still count as tokens."""
        return inputs

    def extra_loss(self) -> torch.Tensor | None:
        """What the forward pass adds to the loss: a sum over tokens, divided by the update's tokens like the loss."""
        return None

    def changed(self) -> set[str]:
        """Names of parameters and buffers that changed though they do not train."""
        return set()

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint has to hold besides the weights that train."""
        return {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from `tensors`."""

    def write(self, folder: Path) -> None:
        """Put the state into a checkpoint's folder."""
        save_tensors(self.tensors(), folder / f"{self.name}.safetensors")

    def read(self, folder: Path) -> None:
        """Take the state from a checkpoint's folder."""
        self.restore(load_file(folder / f"{self.name}.safetensors"))

    def numbers(self) -> dict[str, Any]:
        """What the manifest says about it."""
        return {}
