"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.base import Method, Trained
from adapt.training.rows import TrainEmbeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.training.precision import Precision


class Full(Method):
    """Every weight trains, from master weights in float32."""

    kind: Literal["full"] = "full"
    """Full fine-tuning: every weight trains."""
    train_embeddings: TrainEmbeddings = "whole"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base in float32; with bf16 the products run under autocast."""
        import torch

        from adapt.checkpoints import load_model

        return load_model(location, torch.float32, **arguments)

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Nothing is inserted; everything trains."""
        return model.requires_grad_(True)

    def outline(self, model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
        """Everything in float32."""
        return self.attach(model.float())

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the trained weights, rounded once to the stored format of the base."""
        from adapt.methods.export import live_logits, measure
        from adapt.methods.live_base import live_weights
        from adapt.methods.streaming import Sum, write_sum

        expected = live_logits(trained)
        proof, logits = write_sum(Sum(trained, live_weights(trained)), folder / "model")
        return proof | {"merge": {"written": measure(expected, logits)}}
