"""How far a student's next tokens are from a teacher's, without ever holding all logits.

    sum_n (1 - hard) tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) - hard log softmax(z_S)[t_n]

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. The models meet in
their last hidden vectors; logits are there for a few positions at a time and are computed again in the backward pass.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapt.methods.base import plain_model
from adapt.training.loss import CHUNK, LogitForm, shifted


@dataclass(frozen=True)
class Scale:
    """The temperature tau, and the share of the loss that is that of next tokens."""

    temperature: float
    hard: float


@dataclass(frozen=True)
class Head:
    """An output embedding and the form of its logits."""

    module: nn.Module
    form: LogitForm

    @classmethod
    def of(cls, model: Any) -> Head:
        """That of a plain model or of one with adapters."""
        plain = plain_model(model)
        return cls(plain.get_output_embeddings(), LogitForm.of(plain.config.get_text_config()))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, V]` float32 from `[n, width]`."""
        return self.form.logits(self.module(hidden).float())


class Teacher:
    """A model whose probabilities are learned. It is frozen, in evaluation mode, and draws no random numbers."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.head = Head.of(model)
        self._hidden: torch.Tensor | None = None
        plain_model(model).base_model.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._hidden = outputs.last_hidden_state

    def hidden(self, batch: dict[str, Any]) -> torch.Tensor:
        """The last hidden vectors `[b, t, width]` of a batch."""
        with torch.no_grad():
            self.model(**batch, logits_to_keep=1)  # the whole model, for what is hooked to it
        hidden, self._hidden = self._hidden, None
        return hidden


def divergence(
    hidden: torch.Tensor, reference: torch.Tensor, targets: torch.Tensor, heads: tuple[Head, Head], scale: Scale
) -> torch.Tensor:
    """The summed loss of the student's vectors `[n, width]` against the teacher's `[n, width]`; `targets [n]`.

    `heads` are the student's and the teacher's.
    """
    step = max(1, CHUNK // heads[0].module.weight.shape[0])
    if len(hidden) <= step:
        return _part(hidden, reference, targets, heads, scale)
    parts = [
        checkpoint(
            _part,
            hidden[at : at + step],
            reference[at : at + step],
            targets[at : at + step],
            heads,
            scale,
            use_reentrant=False,
        )
        for at in range(0, len(hidden), step)
    ]
    return torch.stack(parts).sum()


def _part(
    hidden: torch.Tensor, reference: torch.Tensor, targets: torch.Tensor, heads: tuple[Head, Head], scale: Scale
) -> torch.Tensor:
    student, teacher = heads
    logits = student.logits(hidden)
    with torch.no_grad():
        wanted = (teacher.logits(reference) / scale.temperature).log_softmax(-1)
    found = (logits / scale.temperature).log_softmax(-1)
    soft = scale.temperature**2 * nn.functional.kl_div(found, wanted, reduction="sum", log_target=True)
    if not scale.hard:
        return soft
    return (1 - scale.hard) * soft + scale.hard * nn.functional.cross_entropy(logits, targets, reduction="sum")


def add_divergence(model: Any, teacher: Teacher, scale: Scale) -> None:
    """Let `model(..., labels=labels, reference=hidden)` return `{"loss": sum}` over the positions with labels.

    A forward of the plain model itself, as `add_chunked_loss` says why. `hidden` are the teacher's vectors.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *arguments: Any, reference: torch.Tensor | None = None, **others: Any) -> Any:
        if reference is None:
            return original(*arguments, **others)
        labels = others.pop("labels")
        outputs = self.base_model(*arguments, **others)
        hidden, targets = shifted(outputs.last_hidden_state, labels)
        wanted, _ = shifted(reference, labels)
        return {"loss": divergence(hidden, wanted, targets, (Head.of(self), teacher.head), scale)}

    model.forward = types.MethodType(forward, model)
