"""What an objective is: the form of its data, its batches, its trainer, and what it measures beside the steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from adapt.settings import Settings
from adapt.training.rows import HoldRows

if TYPE_CHECKING:
    import torch

    from adapt.data.documents import Document
    from adapt.data.sources import Source
    from adapt.display import Display
    from adapt.training.companion import Companion
    from adapt.training.run import Run

Collate = Callable[[list[Any]], "dict[str, torch.Tensor]"]


class Objective(Settings, ABC):
    """Base of all objectives. One file each; `adapt.training.objectives.OBJECTIVES` is the table."""

    hold: ClassVar[HoldRows] = "none"
    """Which embedding rows stay still where the recipe does not say."""
    learns_answers: ClassVar[bool] = True
    """Whether an assistant's turns are learned, and with them the token that ends one."""

    @property
    def form(self) -> str:
        """The kind of objective whose data this one learns from."""
        return self.kind  # type: ignore[attr-defined]

    def references(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """Stages and models of the recipe that the settings name: the keys that lead there, the name, the part."""
        return iter(())

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Settings that do not go together, as pairs of a key and what is wrong with it."""
        return iter(())

    @abstractmethod
    def stream(
        self, sources: Mapping[str, Source], mixture: Mapping[str, float], tokenizer: Any, **settings: Any
    ) -> Sequence[Any]:
        """What the model learns from, row by row, with `reports`; `settings` as for `build_stream`.

        Raises AdaptError where a source cannot be read or would train nothing.
        """

    @abstractmethod
    def show(self, display: Display, stream: Any, tokenizer: Any) -> None:
        """Say before step 1 what the stream gives."""

    @abstractmethod
    def collator(self, padding: int, flat: bool) -> Collate:
        """Rows as a batch of the trainer; `flat` as FlashAttention wants packed rows."""

    def model_collator(self, padding: int, flat: bool) -> Collate:
        """Rows as the model itself takes them, with labels, for what a method initialises from data."""
        return self.collator(padding, flat)

    @abstractmethod
    def trainer(self, run: Run, callbacks: Sequence[Any]) -> Any:
        """TRL's trainer for the objective, over a run's model and rows."""

    def companions(
        self, documents: Iterable[Document], tokenizer: Any, limit: int, at: set[int]
    ) -> tuple[Companion, ...]:
        """What is measured on held-out documents at the steps `at`, besides bits per byte. `limit` are tokens."""
        return ()
