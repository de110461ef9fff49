"""The student beside its teacher on held-out text, while a run goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapt.evaluation.bits_per_byte import evaluating, first_token
from adapt.export.measures import Window, log_probabilities
from adapt.training.measuring import Measuring
from adapt.training.monitor import HeldOut

if TYPE_CHECKING:
    from adapt.data.documents import Document
    from adapt.training.distillation.divergence import Teacher

_WINDOWS = 32
"""Documents that are read, each as far as a sequence goes."""
_CHARACTERS = 32
"""More characters than a token has, so that no more of a text is cut into tokens than is needed."""


def windows_of(documents: Iterable[Document], tokenizer: Any, limit: int, count: int = _WINDOWS) -> list[Window]:
    """The first documents as at most `limit` tokens, those that carry loss marked: of conversations the answers."""
    found: list[Window] = []
    for document in documents:
        held_out = HeldOut.of([document], tokenizer, "sft", limit, _CHARACTERS * limit)
        for chat in held_out.conversations if held_out is not None else ():
            found.append(Window(chat.ids, chat.trained))
        for text in held_out.texts if held_out is not None else ():
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: limit - 1]
            found.append(Window([first_token(tokenizer), *ids], [0, *[1] * len(ids)]))
        if len(found) >= count:
            break
    return found


class HeldOutTeacher(Measuring):
    """Measures KL(teacher || student) a token and equal first choices, whenever held-out text is measured."""

    name = "distillation"
    teacher: Teacher

    def __init__(self, windows: list[Window], at: set[int]) -> None:
        super().__init__(at)
        self.windows = windows

    def measure(self) -> dict[str, float]:
        """Mean over all tokens that count; draws no random numbers."""
        divergence = agreed = count = 0.0
        model = self.trainer.model
        with evaluating(model), self.run.plan.precision.autocast():
            for window in self.windows:
                wanted, found = (log_probabilities(each, window) for each in (self.teacher.model, model))
                divergence += float((wanted.exp() * (wanted - found)).sum(-1).double().sum())
                agreed += float((wanted.argmax(-1) == found.argmax(-1)).sum())
                count += len(wanted)
        return {"kl": max(0.0, divergence / count), "top1_agreement": agreed / count}

    def tell(self, step: int, numbers: dict[str, float]) -> None:
        """How far the student still is."""
        self.run.display.line(
            f"  step {step:,}: KL to the teacher {numbers['kl']:.4f} nats a token on held-out text, "
            f"{numbers['top1_agreement']:.1%} equal first choices"
        )

    def numbers(self) -> dict[str, Any]:
        """KL and first choices at the start and at the end, and the curve `[[tokens, kl], ...]`."""
        events = self.run.log.read(self.name)
        ends = {"start": events[0], "end": events[-1]} if events else {}
        return {
            **{when: {key: event[key] for key in ("kl", "top1_agreement")} for when, event in ends.items()},
            "curve": [[event["tokens"], event["kl"]] for event in events],
        }
