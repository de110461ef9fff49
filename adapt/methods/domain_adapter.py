"""Domain adapters: bottlenecks parallel to some feed-forward layers that learn the raw text of one domain."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.methods.base import Batches, Trained
from adapt.methods.over import Over
from adapt.settings import Count, NonNegative

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision

Activation = Literal["ffn", "relu", "gelu", "silu"]


class DomainAdapter(Over):
    """`FFN(x) + U act(D x)` in some layers: stage 1 of a mixture of domain adapters.

    Diao et al. 2023, "Mixture-of-Domain-Adapters", ACL, arXiv 2306.05406. The base is frozen, U is zero at first. A
    token of the domain has the loss of next tokens; a token of the general source has the sampling loss, the mean
    square of what the adapter adds to the layers there, so that the old output stays. With `activation: ffn` the
    adapter is nothing but more channels of its layers, and `model/` is exact: a plain model with a larger
    `intermediate_size`. With another one `model/` is the closest model of the base's shape, found by least squares, and
    `merge.written` says how close.
    """

    makes: ClassVar[tuple[str, ...]] = ("adapter",)

    kind: Literal["domain_adapter"] = "domain_adapter"
    """Bottlenecks parallel to the feed-forward layers, for one domain."""
    layers: tuple[int, ...] = ()
    """The layers that get one, counted from 0 or, below it, from the end. Empty: two, as published: the one after seven
    twelfths of the depth, and the last."""
    width: Count = 64
    """Units of a bottleneck."""
    activation: Activation = "ffn"
    """Form and activation of the units: those of the feed-forward layer (`ffn`, gated where it is), or plain `act(D x +
    c)` with the activation that is named."""
    keep: NonNegative = 1.0
    """Weight of the sampling loss on the stage's general text. 0: general text is learned like any other."""

    def unfit(self, sources: Collection[str], objective: str, general: str | None) -> Iterator[tuple[str, str]]:
        """The sampling loss needs general text, and the adapter something else."""
        if self.keep and general is None:
            yield (
                "keep",
                "the sampling loss keeps the output on general text, and the mixture has no source of it; "
                "add one and name it with general, or set keep to 0",
            )
        elif self.keep and len(sources) < 2:
            yield "keep", f"the mixture has only '{general}', whose output is kept; add the domain's text"

    def build(self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any) -> Any:
        """The model with its bottlenecks; it keeps the first batches, on which a dense model is measured."""
        model = super().build(location, precision, batches, **arguments)
        model.adapt_batches = batches
        return model

    def attach(self, model: PreTrainedModel) -> Any:
        """Freeze the model and put a bottleneck, which is zero at first, beside each chosen layer."""
        from adapt.mixture.insertion import freeze, insert_adapter
        from adapt.mixture.routing import Routing

        freeze(model)
        model.adapt_routing = Routing()
        insert_adapter(model, "domain", self.layers, self.width, self.activation, model.adapt_routing)
        return model

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """The sampling loss."""
        from adapt.mixture.sampling_loss import SamplingLoss

        return (SamplingLoss(model, self.keep),) if self.keep else ()

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the adapter, and the plain model that has it or comes closest to it."""
        from adapt.mixture.bases import Base
        from adapt.mixture.bottleneck import parallel_layers
        from adapt.mixture.domain_folder import write_domain_adapter
        from adapt.mixture.plain import write_dense

        units = {name: layer.domains for name, layer in parallel_layers(trained.model).items()}
        write_domain_adapter(folder / "adapter", units, "domain", Base.of(trained.location))
        return write_dense(trained, folder)
