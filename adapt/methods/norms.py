"""Only the norms train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from adapt.methods.selection.partial import Partial
from adapt.training.rows import TrainEmbeddings

if TYPE_CHECKING:
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.units import Shapes


class Norms(Partial):
    """The gains of all norms train, and their biases where they have some: some thousandths of a per cent of a model.

    Zhao et al. 2024, "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", arXiv 2312.11420;
    Zimmer et al. 2023, "PERP", arXiv 2312.15230, for pruned models.
    """

    kind: Literal["norms"] = "norms"
    """Only the norms."""
    train_embeddings: TrainEmbeddings = "frozen"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """All norms, also those outside the blocks."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.units import units_of

        units = units_of(shapes)
        norms = tuple(unit for unit in units if unit.category == "norm")
        return Selection(units, lambda turn: norms, (), round)
