"""What a way to adapt a model is: how the base is loaded, what trains, how the result becomes a plain checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.settings import Settings
from adapt.training.rows import HoldRows, OldRows, TrainEmbeddings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.checkpoints import ModelLocation
    from adapt.training.companion import Companion
    from adapt.training.objectives.base import Collate
    from adapt.training.optimizer import BaseOptimizer
    from adapt.training.precision import Precision
    from adapt.training.rows import EmbeddingRows


Batches = Callable[[], Iterator[dict[str, Any]]]
"""Starts anew at the first batch of a run's stream; tensors as the model takes them, with labels."""


@dataclass(frozen=True)
class Trained:
    """A model after its training, with what is needed to write it as a plain checkpoint.

    `probe` are token ids `[n, length]` on which two copies of the model are compared; `stops` are token ids that end
    an answer, for the generation settings, empty to leave these as they are.
    """

    model: Any
    location: ModelLocation
    tokenizer: PreTrainedTokenizerBase
    rows: EmbeddingRows
    precision: Precision
    probe: torch.Tensor
    stops: Sequence[int] = ()


class Method(Settings, ABC):
    """Base of all methods. One file each; `adapt.methods.METHODS` is the table."""

    makes: ClassVar[tuple[str, ...]] = ()
    """What a stage with it makes besides a model: `adapter`, `mixture`."""

    train_embeddings: TrainEmbeddings = "frozen"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added
    (`new_rows`), those of the tokens that the chat template writes (`chat_rows`), or all (`whole`)."""
    old_rows: OldRows | None = None
    """The other rows train as well, at a part of the rate of the new ones (`lr_scale`). Empty: they stay as they are,
    or train like the new ones where train_embeddings is whole."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings that do not go together, as pairs of a key and what is wrong with it."""
        if self.old_rows is not None and self.train_embeddings == "frozen":
            yield "old_rows", "nothing of the embeddings trains; set train_embeddings to new_rows, chat_rows or whole"

    def unfit(self, sources: Collection[str], objective: str, general: str | None) -> Iterator[tuple[str, str]]:
        """What of the settings does not fit the stage's sources or its kind of objective, as in `conflicts`.

        `general` is the mixture's source of general text, if it has one.
        """
        return iter(())

    def references(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """Stages and models of the recipe that the settings name: the keys that lead there, the name, the part."""
        return iter(())

    def files(self) -> Iterator[Path]:
        """Files that the settings name."""
        return iter(())

    def relative_to(self, folder: Path) -> Method:
        """The same method; files that are not here are looked up in `folder`."""
        return self

    def resolved(self, models: Mapping[str, ModelLocation], upstream: Mapping[str, Path]) -> Method:
        """The same method with the places of what `references` names, the models' and the finished stages'."""
        return self

    def collator(self, collate: Collate) -> Collate:
        """How rows become batches, with what the method needs of them besides."""
        return collate

    def conflicts_with(self, optimizer: BaseOptimizer) -> Iterator[tuple[str, str]]:
        """What of the settings does not go with an optimiser, as in `conflicts`."""
        return iter(())

    @abstractmethod
    def load(self, location: ModelLocation, precision: Precision, **arguments: Any) -> PreTrainedModel:
        """The base model as the method trains over it (for example quantised). `arguments` go to transformers."""

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> Any:
        """Insert the method's modules (as the identity) and set `requires_grad` on exactly what trains.

        The embeddings' rows are another matter, see `rows`.
        """

    def build(
        self, location: ModelLocation, precision: Precision, batches: Batches, **arguments: Any
    ) -> PreTrainedModel | Any:
        """The model as it trains. `batches` gives the first batches of the run, for what is initialised from data."""
        return self.attach(self.load(location, precision, **arguments))

    def outline(self, model: PreTrainedModel, bf16: bool) -> Any:
        """What `build` gives, of a model on the meta device: the same parameters in the same formats, without values.

        `model` comes in its stored format; `bf16` is whether the run computes in it.
        """
        return self.attach(in_format(model, bf16))

    def companions(self, model: Any, seed: int) -> tuple[Companion, ...]:
        """What goes along with the steps of a run over a model from `build`."""
        return ()

    def rows(
        self, model: Any, hold: HoldRows, location: ModelLocation, tokenizer: PreTrainedTokenizerBase
    ) -> EmbeddingRows:
        """Let the embeddings' rows train that the settings name, in a model from `attach`, and freeze the others."""
        from adapt.training.rows import attach_rows

        return attach_rows(plain_model(model), self.train_embeddings, hold, location, tokenizer, self.old_rows)

    @abstractmethod
    def save(self, trained: Trained, folder: Path) -> dict[str, Any]:
        """Write `folder/model` (plain checkpoint) and, where there is one, `folder/adapter`; return what was
        measured."""


def in_format(model: PreTrainedModel, bf16: bool) -> PreTrainedModel:
    """A model in the format in which a run holds what does not train."""
    import torch

    return model.to(torch.bfloat16 if bf16 else torch.float32)


def plain_model(model: Any) -> PreTrainedModel:
    """The transformers model inside an adapter's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
