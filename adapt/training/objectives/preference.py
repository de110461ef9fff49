"""What dpo and orpo have in common: pairs of answers to one prompt, of which one is preferred."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.settings import Positive
from adapt.training.objectives.base import Collate, Objective

if TYPE_CHECKING:
    import torch

    from adapt.data.documents import Document
    from adapt.data.sources import Source
    from adapt.display import Display
    from adapt.training.companion import Companion


class Preference(Objective):
    """Pairs of answers, not packed: a batch of b pairs is 2 b padded sequences."""

    beta: Positive = 0.1
    """How much a difference in log-probability counts."""

    @abstractmethod
    def rewards(self, found: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The implied rewards of both answers, `[pairs, 2]`, from log-probabilities, reference and tokens, likewise."""

    def stream(
        self, sources: Mapping[str, Source], mixture: Mapping[str, float], tokenizer: Any, **settings: Any
    ) -> Sequence[Any]:
        """Pairs, row by row."""
        from adapt.data.pair_report import report_pairs
        from adapt.data.pairs import build_pairs

        settings.pop("packing")
        stream = build_pairs(sources, mixture, tokenizer, **settings)
        stream.reports.extend(report.as_dict() for report in report_pairs(stream, tokenizer))
        return stream

    def show(self, display: Display, stream: Any, tokenizer: Any) -> None:
        """A table of the sources, an example of each, what is cut and what is left out."""
        from adapt.data.pair_report import report_pairs, show_pairs

        show_pairs(display, report_pairs(stream, tokenizer))

    def collator(self, padding: int, flat: bool) -> Collate:
        """All chosen answers, then all rejected ones, each with its prompt."""
        from adapt.data.pairs import collate_pairs

        return lambda items: collate_pairs(items, padding)

    def model_collator(self, padding: int, flat: bool) -> Collate:
        """Both answers, with labels on their tokens."""
        from adapt.data.pairs import collate_pairs
        from adapt.training.preference.log_probs import inputs_of_pairs

        return lambda items: inputs_of_pairs(collate_pairs(items, padding))

    def companions(
        self, documents: Iterable[Document], tokenizer: Any, limit: int, at: set[int]
    ) -> tuple[Companion, ...]:
        """How often the preferred answer of a held-out pair is the more likely one."""
        from adapt.data.chat import sft_encoder
        from adapt.data.documents import is_pair
        from adapt.data.pairs import answers, encoded_pair
        from adapt.training.preference.held_out import HeldOutPairs

        encode = sft_encoder(tokenizer)
        found = (encoded_pair([encode(text) for text in answers(each)], limit) for each in documents if is_pair(each))
        pairs = [pair for pair in found if pair is not None]
        return (HeldOutPairs(pairs, self.rewards, at),) if pairs else ()

    @staticmethod
    def held_out(run: Any) -> Any:
        """The run's companion that measures held-out pairs, or None."""
        from adapt.training.preference.held_out import HeldOutPairs

        return next((companion for companion in run.companions if isinstance(companion, HeldOutPairs)), None)
