"""Half fine-tuning: one half of the matrices trains, the other stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from adapt.methods.base import Batches, Trained
from adapt.methods.selection.draw import Granularity, drawn
from adapt.methods.selection.partial import Partial
from adapt.settings import Count, Settings, Whole, parse_number
from adapt.training.rows import TrainEmbeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.selection.plan import Selection
    from adapt.methods.selection.turns import Length
    from adapt.methods.selection.units import Shapes
    from adapt.training.precision import Precision

Ratio = Annotated[float, BeforeValidator(parse_number), Field(gt=0, le=1)]


class Every(Settings):
    """Draw anew within the run."""

    every: Count
    """After so many updates."""


class Half(Partial):
    """Half of each layer's attention matrices, feed-forward matrices and norms train, drawn anew for each stage.

    Hui et al. 2025, "HFT: Half Fine-Tuning for Large Language Models", ACL, arXiv 2404.18466: in each layer two of the
    four attention matrices train, of the three feed-forward matrices one or two (each in one half of the layers), one
    of the two norms; embeddings, head and last norm as well. The frozen half holds what the model knew.
    """

    kind: Literal["half"] = "half"
    """Half fine-tuning: a random half of the matrices trains."""
    ratio: Ratio = 0.5
    """The share of the matrices and norms of the blocks that train."""
    granularity: Granularity = "category"
    """What is drawn: in each layer the same share of its attention matrices, feed-forward matrices and norms
    (`category`, as published), the same among matrices of one size, so that the share holds for numbers too where keys
    and values are small (`parameters`), whole layers (`layer`), or any matrices and norms (`matrix`)."""
    seed: Whole = 0
    """Of the draw. The next stage over the model that this one makes draws anew by itself."""
    reselect: Literal["per_stage", "per_epoch"] | Every = "per_stage"
    """When to draw anew: once for each stage, each time the text has been read once, or `every: N` updates. A tensor
    that freezes loses its moments, one that thaws begins without any."""
    frozen: Literal["plain", "nf4"] = "plain"
    """How frozen matrices are held: as they are, or in 4 bits (`nf4`). What is written holds the original ones in both
    cases; with `nf4` the run measures what that exchange costs."""
    train_embeddings: TrainEmbeddings = "whole"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`, as published)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """4 bits hold only what never trains."""
        yield from super().conflicts()
        if self.frozen == "nf4" and self.reselect != "per_stage":
            yield "frozen", "matrices in nf4 cannot train later; set reselect to per_stage, or frozen to plain"
        if self.frozen == "nf4" and self.ratio == 1:
            yield "frozen", "nothing is frozen at ratio 1; lower the ratio, or set frozen to plain"

    def length(self) -> Length:
        """Updates between two draws."""
        if isinstance(self.reselect, Every):
            return self.reselect.every
        return None if self.reselect == "per_stage" else self.reselect

    def select(self, shapes: Shapes, model: Any, round: int) -> Selection:
        """A draw from the units of the blocks; everything outside them trains."""
        from adapt.methods.selection.plan import Selection
        from adapt.methods.selection.units import units_of

        units = units_of(shapes)
        outside = tuple(unit for unit in units if unit.layer is None)
        return Selection(
            units,
            lambda turn: drawn(units, self.ratio, self.granularity, self.seed, round, turn),
            outside,
            round,
        )

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The base with its frozen matrices in the format that `frozen` says."""
        model = super().build(location, precision, batches, **arguments)
        if self.frozen == "nf4":
            from adapt.methods.selection.nf4 import hold_frozen

            hold_frozen(model, precision)
        return model

    def outline(self, model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
        """Frozen matrices in the format that `frozen` says."""
        from adapt.methods.outline import in_four_bits, linear_layers

        model = super().outline(model, bf16)
        if self.frozen == "nf4":
            frozen = [name for name in linear_layers(model) if not model.get_submodule(name).weight.requires_grad]
            in_four_bits(model, frozen)
        return model

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the model; with `frozen: nf4` also measure what the original matrices in place of those change."""
        metrics, live, written = self.write(trained, folder)
        if self.frozen == "nf4":
            from adapt.methods.selection.nf4 import exchange

            metrics["exchange"] = exchange(trained, live, written, folder / "with_4_bits")
        return metrics
