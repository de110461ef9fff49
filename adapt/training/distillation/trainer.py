"""The trainer of a student: packed rows, and a teacher's probabilities in place of the text's next tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from adapt.errors import AdaptError
from adapt.methods.base import plain_model
from adapt.training.distillation.divergence import Scale, Teacher, add_divergence
from adapt.training.distillation.held_out import HeldOutTeacher
from adapt.training.distillation.sharing import share_frozen
from adapt.training.loss import inputs_of
from adapt.training.trainer import StreamTrainer

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.training.run import Run


def load_teacher(location: ModelLocation, run: Run) -> Teacher:
    """The teacher on the run's device, in the run's format for weights that do not train.

    Anything that computes logits: a plain model, an adapter's folder, a mixture's. Raises AdaptError for another
    vocabulary than the student's.
    """
    from adapt.mixture.live import load_live

    model, tokenizer = load_live(location, run.plan.precision.dtype)
    own = run.tokenizer.get_vocab()
    if (theirs := tokenizer.get_vocab()) != own:
        differing = sorted(token for token in own.keys() | theirs.keys() if own.get(token) != theirs.get(token))
        raise AdaptError(
            f"the teacher '{location.path}' has another vocabulary than the student: {len(differing)} tokens differ, "
            f"the first is '{differing[0]}'; a teacher needs the same tokens with the same ids"
        )
    heights = [plain_model(each).get_output_embeddings().weight.shape[0] for each in (model, run.model)]
    if heights[0] != heights[1]:
        raise AdaptError(
            f"the teacher '{location.path}' has {heights[0]} rows of output, the student {heights[1]}; "
            "they need the same"
        )
    return Teacher(model.to(run.plan.precision.device))


class DistilTrainer(StreamTrainer):
    """Trains on `divergence` over the stream's tokens that carry loss."""

    def __init__(self, run: Run, teacher: Teacher, scale: Scale, callbacks: Sequence[Any]) -> None:
        super().__init__(run.model, run.plan, run.folder, run.stream, run.collate, run.tokenizer, run.rows, callbacks)
        self.teacher = teacher
        if shared := share_frozen(teacher.model, self.model, run.companions):
            run.display.line(f"  teacher and student share {shared / 1e6:,.1f} MB of frozen weights")
        add_divergence(plain_model(self.model), teacher, scale)
        for companion in run.companions:
            if isinstance(companion, HeldOutTeacher):
                companion.teacher = teacher

    def _token_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool, num_items_in_batch: Any
    ) -> torch.Tensor:
        """The divergence summed over the batch, divided as the loss of next tokens would be."""
        batch = inputs_of(inputs)
        outputs = model(**batch, labels=inputs["labels"], reference=self.teacher.hidden(batch))
        return self._shared(outputs["loss"], num_items_in_batch)
