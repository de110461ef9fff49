"""Pruned: make a smaller copy of a model and train it, for LoRAM to train its adapter on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from adapt.methods.base import Method, Trained
from adapt.methods.pruning.settings import Pruning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.base import Batches
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision


class Pruned(Method):
    """The blocks of a structurally pruned copy train whole, so that it comes close to the model again.

    The alignment of Zhang et al. 2025, "Train Small, Infer Large", arXiv 2502.13533: short, done once for a model, on
    general text. What is written is the whole model as it was, with the pruned copy beside it in a file of its own, for
    a stage with method `loram`.
    """

    kind: Literal["pruned"] = "pruned"
    """A pruned copy, whose blocks train."""
    prune: Pruning = Field(default_factory=Pruning)
    """What goes."""
    train_embeddings: Literal["frozen"] = "frozen"
    """The embeddings stay as they are: they are the whole model's."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Ranges that are none."""
        yield from super().conflicts()
        for message in self.prune.mistakes():
            yield "prune", message

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The whole model in float32."""
        import torch

        from adapt.checkpoints import load_model

        return load_model(location, torch.float32, **arguments)

    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Nothing is inserted; everything trains but the embeddings."""
        return model.requires_grad_(True)

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The pruned model."""
        from adapt.methods.pruning.prune import choose, cut, storage

        model = self.load(location, precision, **arguments)
        whole = storage(model)
        cut(model, choose(model, self.prune, batches))
        model.adapt_storage = {"whole": whole, "trained": storage(model)}
        return self.attach(model.to(precision.device))

    def outline(self, model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
        """The pruned model in float32; which parts are gone hangs on values, how many does not."""
        from adapt.methods.pruning.prune import cut_any

        cut_any(model := model.float(), self.prune)
        return self.attach(model)

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """The numbers of the pruned model."""
        from adapt.methods.pruning.report import Storage

        return (Storage(model.adapt_storage),)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the whole model as it was and the pruned one beside it; `pruned_copy` says how far apart they are."""
        from adapt.methods.export import live_logits, measure
        from adapt.methods.pruning.recovery import save_pruned
        from adapt.methods.streaming import Sum, write_sum

        small = live_logits(trained)
        proof, logits = write_sum(Sum(trained), folder / "model")
        save_pruned(trained.model, folder / "model")
        return proof | {"pruned_copy": measure(logits, small)}
