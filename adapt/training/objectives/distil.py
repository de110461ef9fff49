"""What another model makes of the text: its probabilities of every next token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from adapt.mixture.references import Named, named
from adapt.settings import Positive, Share
from adapt.training.objectives.packed import Packed
from adapt.training.rows import HoldRows

if TYPE_CHECKING:
    from adapt.data.documents import Document
    from adapt.training.companion import Companion
    from adapt.training.run import Run


class Distil(Packed):
    """`KL(teacher || student)` of next tokens (Hinton et al. 2015, arXiv 1503.02531).

    The teacher is any model with the same vocabulary, above all a live mixture, `stage/mixture`; the student is what
    the stage's method makes train: one LoRA, or the dense model. Both are in memory; frozen weights in which they are
    equal, such as those of one base under both, are there once.
    """

    kind: Literal["distil"] = "distil"
    """The probabilities of another model with the same vocabulary."""
    teacher: str
    """The model to learn from: a name under `models:`, of an earlier stage, or a part of one (`stage/mixture`)."""
    tokens: Literal["all", "answers"] = "all"
    """Which tokens: every one of plain text, or those of the assistant in conversations."""
    temperature: Positive = 1.0
    """Both models' logits are divided by it; above 1 unlikely tokens count more."""
    hard: Share = 0.0
    """The share of the loss that is that of the text's own next tokens."""

    @property
    def form(self) -> str:
        """The objective whose data these are."""
        return "sft" if self.tokens == "answers" else "causal_lm"

    @property
    def hold(self) -> HoldRows:  # type: ignore[override]
        """As that objective."""
        return "special" if self.tokens == "all" else "none"

    @property
    def learns_answers(self) -> bool:  # type: ignore[override]
        """As that objective."""
        return self.tokens == "answers"

    def references(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """The teacher."""
        found = named(self.teacher) or Named(self.teacher)
        yield ("teacher",), found.name, found.part

    def trainer(self, run: Run, callbacks: Sequence[Any]) -> Any:
        """SFTTrainer on the stream, with the teacher's probabilities."""
        from adapt.training.distillation.divergence import Scale
        from adapt.training.distillation.trainer import DistilTrainer, load_teacher

        teacher = load_teacher(run.located(self.teacher), run)
        return DistilTrainer(run, teacher, Scale(self.temperature, self.hard), callbacks)

    def companions(
        self, documents: Iterable[Document], tokenizer: Any, limit: int, at: set[int]
    ) -> tuple[Companion, ...]:
        """How far the student is from the teacher on held-out text."""
        from adapt.training.distillation.held_out import HeldOutTeacher, windows_of

        windows = windows_of(documents, tokenizer, limit)
        return (HeldOutTeacher(windows, at),) if windows else ()
