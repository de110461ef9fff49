"""Several LoRA adapters beside one frozen model, weighed by gates at every token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.methods.base import Method, Trained
from adapt.methods.low_rank.conflicts import targets_of
from adapt.mixture.references import named
from adapt.mixture.routers import AnyRouter
from adapt.mixture.routers.token import Token
from adapt.settings import Count, NonNegative, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.checkpoints import ModelLocation
    from adapt.methods.base import Batches
    from adapt.training.companion import Companion
    from adapt.training.objectives.base import Collate
    from adapt.training.precision import Precision

_BALANCE = 1e-2


class MixtureOfLora(Method):
    """`y = W x + sum_e g_e(x) s_e B_e A_e x`: adapters that were trained apart, or new ones, and gates over them.

    Xu et al. 2024, "MeteoRA", arXiv 2405.13053. The stage makes `mixture/`, which `adapt.load_mixture` loads, and
    `model/`, a plain checkpoint with the adapters added in their mean shares: gates cannot be folded into weights.
    """

    makes: ClassVar[tuple[str, ...]] = ("mixture",)

    kind: Literal["mixture_of_lora"] = "mixture_of_lora"
    """Gates over several low-rank adapters."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Adapters by names of your choice: a train stage of this recipe (`dates` or `dates/adapter`), a model of this
    recipe that is an adapter, or a folder of peft (`./adapters/dates`). Ranks and targets may differ."""
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
    z_loss: NonNegative = 0.0
    """Weight of the mean squared log-sum-exp of the gates' scores, which keeps them small; 0.001 is usual."""
    supervision: Positive = 1
    """Weight of the cross-entropy of the gates with the right adapter, where train is `supervised`."""
    entropy: NonNegative = 0.0
    """Weight of the gates' mean entropy: above 0 makes them choose more clearly."""
    domains: dict[str, str] = Field(default_factory=dict)
    """Sources and the adapters that their text is for; a source with an adapter's name is for that one anyway."""
    over: Literal["bf16", "nf4"] = "bf16"
    """The base as it stands in the run: in the format that the run computes in, or its linear layers in 4 bits."""

    @property
    def names(self) -> tuple[str, ...]:
        """All adapters in their order."""
        return (*self.adapters, *(f"new_{number}" for number in range(1, (self.new or 0) + 1)))

    @property
    def places(self) -> dict[str, int]:
        """The adapter of each source, by its place."""
        places = {name: place for place, name in enumerate(self.names)}
        return places | {source: places[name] for source, name in self.domains.items() if name in places}

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Adapters, gates and what trains, as far as the settings alone tell."""
        from adapt.mixture.conflicts import conflicts_of

        yield from super().conflicts()
        yield from targets_of(self.targets)
        yield from conflicts_of(self)

    def unfit(self, sources: Collection[str], objective: str, general: str | None) -> Iterator[tuple[str, str]]:
        """Domains without a source and sources without a domain."""
        from adapt.mixture.conflicts import unfit_of

        return unfit_of(self, sources, objective)

    def references(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """The stages and models that adapters come from."""
        for name, given in self.adapters.items():
            found = named(given)
            if found is not None:
                yield ("adapters", name), found.name, found.part or "adapter"

    def files(self) -> Iterator[Path]:
        """The files of adapters that are given as folders."""
        for given in self.adapters.values():
            if named(given) is None:
                yield from (Path(given) / name for name in ("adapter_config.json", "adapter_model.safetensors"))

    def relative_to(self, folder: Path) -> MixtureOfLora:
        """Folders that are not here are looked up in `folder`."""
        adapters = {
            name: str(folder / given) if named(given) is None and not Path(given).exists() else given
            for name, given in self.adapters.items()
        }
        return self.model_copy(update={"adapters": adapters})

    def resolved(self, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path]) -> MixtureOfLora:
        """The same with folders instead of names."""
        found = {name: named(given) for name, given in self.adapters.items()}
        folders = {
            name: self.adapters[name] if each is None else str(each.folder(models, upstream, "adapter").resolve())
            for name, each in found.items()
        }
        return self.model_copy(update={"adapters": folders})

    def collator(self, collate: Collate) -> Collate:
        """Batches that also say which adapter a token's text is for, and what is padding."""
        from adapt.mixture.batches import with_domains

        return with_domains(collate, self.places)

    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base, in 4 bits if it is asked for."""
        from adapt.mixture.folder import load_base

        return load_base(location, precision, "nf4" if self.over == "nf4" else None, **arguments)

    def attach(self, model: PreTrainedModel) -> Any:
        """A mixture stands over a base that is known by its files, see `build`."""
        raise NotImplementedError("a mixture is built with its base's location")

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
