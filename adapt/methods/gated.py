"""What methods with several adapters behind gates have in common: adapters by name, domains of the data, the base."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from adapt.methods.over import Over
from adapt.mixture.references import named
from adapt.settings import NonNegative, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Self

    from adapt.checkpoints import ModelLocation
    from adapt.training.objectives.base import Collate


class Gated(Over):
    """Adapters that were trained apart, by name, and gates over them; the stage makes `mixture/`."""

    makes: ClassVar[tuple[str, ...]] = ("mixture",)
    holds: ClassVar[tuple[str, ...]]
    """The files of an adapter that is given as a folder."""

    adapters: dict[str, str] = Field(default_factory=dict)
    """Adapters by names of your choice: stages, models of this recipe, or folders."""
    supervision: Positive = 1
    """Weight of the cross-entropy of the gates with the right adapter, where train is `supervised`."""
    z_loss: NonNegative = 0.0
    """Weight of the mean squared log-sum-exp of the gates' scores, which keeps them small; 0.001 is usual."""
    entropy: NonNegative = 0.0
    """Weight of the gates' mean entropy: above 0 makes them choose more clearly."""
    domains: dict[str, str] = Field(default_factory=dict)
    """Sources and the adapters that their text is for; a source with an adapter's name is for that one anyway."""

    @property
    def names(self) -> tuple[str, ...]:
        """All adapters in their order."""
        return tuple(self.adapters)

    @property
    def places(self) -> dict[str, int]:
        """The adapter of each source, by its place."""
        places = {name: place for place, name in enumerate(self.names)}
        return places | {source: places[name] for source, name in self.domains.items() if name in places}

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
                yield from (Path(given) / name for name in self.holds)

    def relative_to(self, folder: Path) -> Self:
        """Folders that are not here are looked up in `folder`."""
        return self.model_copy(
            update={"adapters": {name: beside(folder, each) for name, each in self.adapters.items()}}
        )

    def resolved(self, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path]) -> Self:
        """The same with folders instead of names."""
        folders = {name: folder_of(each, models, upstream, "adapter") for name, each in self.adapters.items()}
        return self.model_copy(update={"adapters": folders})

    def collator(self, collate: Collate) -> Collate:
        """Batches that also say which adapter a token's text is for, and what is padding."""
        from adapt.mixture.batches import with_domains

        return with_domains(collate, self.places)

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """Raises UnplannedError: adapters are files, of other stages maybe, and none is read before the run."""
        from adapt.methods.outline import UnplannedError

        raise UnplannedError(
            f"the adapters of method '{self.kind}' are read when the stage runs, and their sizes are theirs"
        )

    def attach(self, model: PreTrainedModel) -> Any:
        """A mixture stands over a base that is known by its files, see `build`."""
        raise NotImplementedError("a mixture is built with its base's location")


def beside(folder: Path, given: str) -> str:
    """What a recipe names, looked up in `folder` where it is a path that is not here."""
    return str(folder / given) if named(given) is None and not Path(given).exists() else given


def folder_of(given: str, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path], part: str) -> str:
    """The folder of what a recipe names, a `part` where it says none; a path stays as it is."""
    found = named(given)
    return given if found is None else str(found.folder(models, upstream, part).resolve())
