"""Only rows of the embeddings train: the first stage after growing a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.base import Method, Trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.training.precision import Precision


class RowsOnly(Method):
    """The model is frozen but for rows of its input and output embedding.

    New pieces learn where they belong before anything else moves, as in the first stage of Kim et al. 2024, "Efficient
    and Effective Vocabulary Expansion Towards Multilingual Large Language Models", arXiv 2402.14714; an adapter follows
    in a stage of its own.
    """

    kind: Literal["rows"] = "rows"
    """Rows of the embeddings, over a frozen model."""
    train_embeddings: Literal["new_rows", "chat_rows", "whole"] = "new_rows"
    """Which rows of the input and output embeddings train: those of pieces that this recipe added (`new_rows`), those
    of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base in bf16 or float32, as the run computes."""
        from adapt.checkpoints import load_model

        return load_model(location, precision.dtype, **arguments)

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Nothing is inserted; everything is frozen."""
        return model.requires_grad_(False)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the rows, and the base with them put in."""
        from adapt.methods.adapter import save_vocabulary
        from adapt.methods.export import live_logits, measure
        from adapt.methods.streaming import Stored, Sum, write_sum

        expected = live_logits(trained)
        save_vocabulary(trained, Stored(trained.location), folder / "adapter")
        proof, logits = write_sum(Sum(trained), folder / "model")
        return proof | {"merge": {"written": measure(expected, logits)}}
