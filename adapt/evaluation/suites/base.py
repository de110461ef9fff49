"""What a suite is. Most take items from a source and give one score for each of them under a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapt.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapt.data.sources import Source


@dataclass(frozen=True)
class Candidate:
    """A model that is being scored, with what it needs.

    `window_bytes` is the same for all models that are compared; `chat_templates` holds the templates of the models
    that suites borrow from, by name.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    window_bytes: int | None = None
    chat_templates: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """One model on one suite. The score is `sum(totals) / sum(weights)`; both lists are `[items]`.

    `form` says how the model was asked; `answers` holds what it said, where the suite asks for answers.
    """

    totals: list[float]
    weights: list[float]
    answers: list[str] = field(default_factory=list)
    form: str = ""


class Suite(Settings, ABC):
    """Base of all suites. One file each; `adapt.evaluation.suites.SUITES` is the table."""

    def reads(self) -> str | None:
        """The source (a name under `data:`) that the suite reads, if any."""
        return None

    def borrows(self) -> str | None:
        """The model whose chat template the suite uses, if any."""
        return None

    def files(self) -> Iterator[Path]:
        """Files that the settings name; their content belongs to the key of the stage."""
        return iter(())

    def relative_to(self, folder: Path) -> Suite:
        """The same suite; what its settings name and is not here is looked up in `folder`."""
        return self

    def complaints(self) -> Iterator[tuple[str, str]]:
        """What is missing on this machine or does not fit: the key, and a message."""
        return iter(())


class ItemSuite(Suite):
    """Items from a source, each with a score of its own."""

    metric: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]]

    source: str
    """The source (a name under `data:`) that the items come from."""

    def reads(self) -> str | None:
        """The `source` of the settings."""
        return self.source

    def threshold(self) -> float:
        """Two models tie on an item when their scores on it differ by no more than this."""
        return 0.0

    @abstractmethod
    def items(self, source: Source) -> Sequence[Any]:
        """The items, the same ones for every model. Raises AdaptError where there are none."""

    @abstractmethod
    def score(self, candidate: Candidate, items: Sequence[Any], advance: Callable[[int], None]) -> Scores:
        """Score every item; `advance` is told how many are done."""

    def examples(self, items: Sequence[Any], scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
        """The first items with each model's answer, for a reader; none where there are no answers."""
        return []
