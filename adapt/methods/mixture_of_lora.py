"""Several LoRA adapters beside one frozen model, weighed by gates at every token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.methods.base import Trained
from adapt.methods.gated import Gated, beside, folder_of
from adapt.methods.low_rank.conflicts import targets_of
from adapt.mixture.references import named
from adapt.mixture.routers import AnyRouter
from adapt.mixture.routers.token import Token
from adapt.settings import Count, NonNegative, Positive

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.methods.base import Batches
    from adapt.training.companion import Companion
    from adapt.training.precision import Precision

_BALANCE = 1e-2


class MixtureOfLora(Gated):
    """`y = W x + sum_e g_e(x) s_e B_e A_e x`: adapters that were trained apart, or new ones, and gates over them.

    Xu et al. 2024, "MeteoRA", arXiv 2405.13053. The stage makes `mixture/`, which `adapt.load_mixture` loads, and
    `model/`, a plain checkpoint with the adapters added in their mean shares: gates cannot be folded into weights.
    """

    holds: ClassVar[tuple[str, ...]] = ("adapter_config.json", "adapter_model.safetensors")

    kind: Literal["mixture_of_lora"] = "mixture_of_lora"
    """Gates over several low-rank adapters."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Adapters by names of your choice: a train stage of this recipe (`dates` or `dates/adapter`), a model of this
    recipe that is an adapter, or a folder of peft (`./adapters/dates`). Ranks and targets may differ."""
    from_mixture: str | None = None
    """A mixture over this stage's model that trains further: a stage's (`gates/mixture`) or a folder. Its adapters,
    router and gates are taken over. `adapters` and `new` join them, with scores of zero at first."""
    new: Count | None = None
    """So many further adapters that begin at zero and train with the gates, called new_1, new_2, ..."""
    r: Count = 16
    """The rank of new adapters."""
    alpha: Positive | None = None
    """New adapters' updates are scaled by alpha / r. Empty: twice the rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """The linear layers that new adapters change: all but the output embedding, or those whose names end so."""
    router: AnyRouter = Token()
    """How a token's adapters are chosen and weighed."""
    gate: Literal["projection", "layer", "model"] = "projection"
    """One gate for each linear layer that has adapters, for each block, or for the whole model."""
    gate_rate: Positive = 1
    """Learning rate of the gates, as a multiple of the schedule's."""
    train: Literal["gates", "joint", "supervised"] = "gates"
    """What trains: the gates alone, with the loss of next tokens (`gates`); adapters as well (`joint`); the gates, also
    with the adapter that each source's text is for (`supervised`)."""
    balance: NonNegative | None = None
    """Weight of the loss that is least when all adapters are used alike. Empty: 0.01 where adapters train, else 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """All adapters in their order."""
        return (*self.adapters, *(f"new_{number}" for number in range(1, (self.new or 0) + 1)))

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Adapters, gates and what trains, as far as the settings alone tell."""
        from adapt.mixture.conflicts import conflicts_of

        yield from super().conflicts()
        yield from targets_of(self.targets)
        yield from conflicts_of(self)

    def references(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """The stages and models that adapters come from, and the mixture's."""
        yield from super().references()
        found = named(self.from_mixture) if self.from_mixture is not None else None
        if found is not None:
            yield ("from_mixture",), found.name, found.part or "mixture"

    def files(self) -> Iterator[Path]:
        """The files of adapters that are given as folders, and the mixture's."""
        yield from super().files()
        if self.from_mixture is not None and named(self.from_mixture) is None:
            yield Path(self.from_mixture) / "mixture.json"

    def relative_to(self, folder: Path) -> MixtureOfLora:
        """Folders that are not here are looked up in `folder`."""
        found = super().relative_to(folder)
        if self.from_mixture is None:
            return found
        return found.model_copy(update={"from_mixture": beside(folder, self.from_mixture)})

    def resolved(self, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path]) -> MixtureOfLora:
        """The same with folders instead of names, and with what the mixture has that trains further."""
        found = super().resolved(models, upstream)
        if self.from_mixture is None:
            return found
        from adapt.mixture.further import with_mixture

        return with_mixture(found, Path(folder_of(self.from_mixture, models, upstream, "mixture")))

    def build(self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any) -> Any:
        """The base with adapters and gates in it."""
        from adapt.mixture.starting import start

        return start(self, self.load(location, precision, **arguments), location, batches)

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """The gates' losses and numbers."""
        from adapt.mixture.companion import Gating
        from adapt.mixture.losses import Losses

        balance = (_BALANCE if self.train == "joint" else 0.0) if self.balance is None else self.balance
        supervision = self.supervision if self.train == "supervised" else 0.0
        return (Gating(model, Losses(balance, self.z_loss, supervision, self.entropy)),)

    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write the mixture, and the plain model with mean gates."""
        from adapt.mixture.saving import save_trained

        return save_trained(trained, folder)
