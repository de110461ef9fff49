"""Domain adapters that were trained apart, behind gates, with a task adapter: stage 2 of a mixture of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.methods.base import Batches, Trained
from adapt.methods.gated import Gated
from adapt.mixture.routers import AnyRouter
from adapt.mixture.routers.mlp import Mlp
from adapt.settings import Count, Positive

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision


class MixtureOfDomainAdapters(Gated):
    """`FFN(x) + sum_e g_e(x) U_e act(D_e x) + U_t act(D_t x)`: the adapters e frozen, gates and task adapter t learn.

    Diao et al. 2023, "Mixture-of-Domain-Adapters", ACL, arXiv 2306.05406; mostly on conversations, with `objective:
    sft`. Published is a gate that reads the last token of the sequence, which in a decoder tells every token of those
    after it; no gate here sees later tokens. The stage makes `mixture/`, which `adapt.load_mixture` loads, and
    `model/`, a plain checkpoint with the mean gates, whose cost is measured.
    """

    holds: ClassVar[tuple[str, ...]] = ("bottleneck_config.json", "bottleneck.safetensors")

    kind: Literal["mixture_of_domain_adapters"] = "mixture_of_domain_adapters"
    """Gates over several domain adapters, and a task adapter."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Adapters by names of your choice: a train stage of this recipe with method domain_adapter (`dates` or
    `dates/adapter`), or a folder (`./adapters/dates`). Widths and layers may differ."""
    router: AnyRouter = Mlp()
    """How a token's adapters are weighed."""
    gate_rate: Positive = 2
    """Learning rate of the gates, as a multiple of the schedule's; 2 as published."""
    task: Count | None = 64
    """Units of the task adapter beside every layer, which is always on. Empty: none."""
    train: Literal["gates", "supervised"] = "gates"
    """How the gates learn: by the loss of next tokens alone (`gates`), or also by the adapter that each source's text
    is for (`supervised`)."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Adapters, gates and what trains, as far as the settings alone tell."""
        yield from super().conflicts()
        if not self.names:
            yield "adapters", "a mixture needs adapters; name some"
            return
        for message in self.router.conflicts(self.names):
            yield "router", message
        if not self.router.learns and self.task is None:
            yield "router", f"'{self.router.kind}' has nothing that trains, and there is no task adapter; set task"
        if self.train_embeddings != "frozen":
            yield "train_embeddings", "all adapters of a mixture have one vocabulary; train rows in a stage before it"
        for source, name in self.domains.items():
            if name not in self.names:
                yield "domains", f"'{source}' is for the adapter '{name}', but there are only {', '.join(self.names)}"

    def build(self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any) -> Any:
        """The base with adapters, gates and task adapter beside its feed-forward layers."""
        from adapt.mixture.domain_stage import start

        return start(self, self.load(location, precision, **arguments), location, batches)

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """The gates' losses and numbers."""
        from adapt.mixture.companion import Gating
        from adapt.mixture.losses import Losses

        supervision = self.supervision if self.train == "supervised" else 0.0
        return (Gating(model, Losses(0.0, self.z_loss, supervision, self.entropy)),)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the mixture, and the plain model with mean gates."""
        from adapt.mixture.domain_stage import save

        return save(trained, folder)
