"""LoRAM: train an adapter on a pruned copy of a model, and put it on the whole one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.methods.base import in_format
from adapt.methods.lora import Lora
from adapt.methods.pruning.settings import Pruning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.base import Batches
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision


class Loram(Lora):
    """LoRA over a structurally pruned model, in bf16 or float32 or (QLoRAM) in 4 bits.

    The updates are recovered to full size with zeros at what was pruned and added to the whole model on the disk. Zhang
    et al. 2025, "Train Small, Infer Large: Memory-Efficient LoRA Training for Large Language Models", arXiv 2502.13533.
    Pruning happens in main memory; only the pruned model goes to the GPU. The run measures the pruned model; so does
    `merge.written`, which compares the whole model with it: they are meant to differ.
    """

    kind: Literal["loram"] = "loram"
    """Low-rank updates trained over a pruned copy of the model."""
    prune: Pruning | None = None
    """What goes. Empty: the model comes from a stage with method `pruned`, which pruned it and trained what stayed."""
    frozen: Literal["plain", "nf4"] = "plain"
    """How the pruned weights are held: as the run computes (`plain`), or in 4 bits (`nf4`; QLoRAM)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Ranges that are none, and starts that change the weights."""
        yield from super().conflicts()
        for message in self.prune.mistakes() if self.prune is not None else ():
            yield "prune", message
        if self.init in ("pissa", "olora"):
            yield "init", f"'{self.init}' takes a part out of weights that are only a copy here; use default or eva"
        if self.dora:
            yield "dora", "its magnitudes belong to the pruned weights, not to the whole ones; leave dora out"

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The whole model, in main memory."""
        from adapt.checkpoints import load_model

        return load_model(location, precision.dtype, **arguments)

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The pruned model with updates that start at zero."""
        from adapt.methods.pruning.prune import choose, cut, quantise, storage
        from adapt.methods.pruning.recovery import PRUNED_FILE, load_pruned

        model = self.load(location, precision, **arguments)
        file = location.folder / PRUNED_FILE if location.folder else None
        found = file is not None and file.exists()
        if found == (self.prune is not None):
            raise AdaptError(
                f"'{location.path}' is pruned already (by its {PRUNED_FILE}); take prune out of the method"
                if found
                else f"'{location.path}' holds no {PRUNED_FILE}; set prune in the method, or let a stage with method "
                "'pruned' go before"
            )
        whole = storage(model)
        load_pruned(model, file) if found else cut(model, choose(model, self.prune, batches))
        if self.frozen == "nf4":
            quantise(model, precision.dtype)
        small = storage(model)
        model = self.attach(model.to(precision.device))
        model.adapt_storage = {"whole": whole, "trained": small}
        return self.start(model, location, batches)

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """The pruned model with its updates; whole without `prune`: what an earlier stage cuts is not known."""
        from adapt.methods.outline import in_four_bits, linear_layers
        from adapt.methods.pruning.prune import cut_any

        model = in_format(model, bf16)
        if self.prune is not None:
            cut_any(model, self.prune)
        if self.frozen == "nf4":
            in_four_bits(model, linear_layers(model))
        return super().outline(model, bf16)

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """What LoRA has, and the numbers of the pruned model."""
        from adapt.methods.pruning.report import Storage

        return (*super().companions(model, seed), Storage(model.adapt_storage))
