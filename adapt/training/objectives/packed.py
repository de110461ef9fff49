"""What causal_lm and sft have in common: packed rows of tokens, under TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.training.objectives.base import Collate, Objective

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.display import Display
    from adapt.training.run import Run


class Packed(Objective):
    """Documents packed into sequences; the loss is that of next tokens."""

    kind: str

    def stream(
        self, sources: Mapping[str, Source], mixture: Mapping[str, float], tokenizer: Any, **settings: Any
    ) -> Sequence[Any]:
        """Packed rows."""
        from adapt.data.stream import build_stream

        return build_stream(sources, mixture, tokenizer, objective=self.form, **settings)

    def show(self, display: Display, stream: Any, tokenizer: Any) -> None:
        """A table of the sources and an example of each."""
        from adapt.data.preflight import preflight, show

        show(display, preflight(stream, tokenizer))

    def collator(self, padding: int, flat: bool) -> Collate:
        """Ids, labels and positions."""
        from adapt.training.batches import collator

        return collator(padding, flat)

    def trainer(self, run: Run, callbacks: Sequence[Any]) -> Any:
        """SFTTrainer on the stream."""
        from adapt.training.run import packed_trainer

        return packed_trainer(run, callbacks)
