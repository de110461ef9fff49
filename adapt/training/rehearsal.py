"""The longest batch of a run before its first step, so that a lack of memory shows at once and not hours later.

Rows of unequal length make batches of unequal memory. The longest one goes forward and backward once; gradients are
dropped, random numbers and the trainer's own records are put back, so the run is the same to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from adapt.training.resumable import Resumable

_RECORDS = ("_metrics", "_stored_metrics", "_total_train_tokens", "chosen_tokens", "step_loss")
"""What TRL's trainers and ours note of each batch."""


def longest_batch(stream: Sequence[Any], batch_size: int, batches: int) -> int | None:
    """The number of the batch with the longest row; None where the first one is as long, or lengths are not known."""
    if not hasattr(stream, "row_sizes") or batches < 1:
        return None
    lengths = stream.row_sizes()[: batches * batch_size]
    whole = len(lengths) // batch_size
    if whole < 1:
        return None
    longest = lengths[: whole * batch_size].reshape(whole, batch_size).max(axis=1)
    found = int(longest.argmax())
    return found if longest[found] > longest[0] else None


def rehearse(trainer: Resumable, stream: Sequence[Any]) -> int | None:
    """Make a pass over the run's longest batch and forget it; returns its number, None where there was no need."""
    plan = trainer.plan
    if plan.world.sharded and plan.world.strategy == "deepspeed":
        return None  # its engine takes every gradient for one of the update
    number = longest_batch(stream, plan.batch_size, plan.steps * plan.accumulation)
    if number is None:
        return None
    rows = [{"index": number * plan.batch_size + place} for place in range(plan.batch_size)]
    records = {name: copy.deepcopy(getattr(trainer, name)) for name in _RECORDS if hasattr(trainer, name)}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    trainer.current_gradient_accumulation_steps = 1  # set in the loop, which has not begun; ORPO's loss asks for it
    with torch.random.fork_rng(devices):
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        trainer.model.train()
        trainer.model.zero_grad(set_to_none=True)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=torch.tensor(1))
        trainer.accelerator.backward(loss)
    del loss, inputs
    trainer.model.zero_grad(set_to_none=True)
    for name, value in records.items():
        setattr(trainer, name, value)
    return number
