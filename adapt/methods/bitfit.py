"""BitFit: only the biases train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.methods.selection.partial import Partial
from adapt.training.rows import TrainEmbeddings

if TYPE_CHECKING:
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.units import Shapes


class Bitfit(Partial):
    """Every bias of the model trains, those of norms with them.

    Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models", arXiv 2106.10199. Many families have few biases or none: Llama none, Qwen2 those of queries, keys
    and values.
    """

    kind: Literal["bitfit"] = "bitfit"
    """Only the biases."""
    train_embeddings: TrainEmbeddings = "frozen"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """All biases. Raises AdaptError where the model has none."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.units import units_of

        units = units_of(shapes, apart=True)
        biases = tuple(unit for unit in units if unit.name.endswith("bias"))
        if not biases:
            raise AdaptError(
                f"method 'bitfit': a {model.config.model_type} has no biases to train; take method 'norms'"
            )
        return Selection(units, lambda turn: biases, (), round)
