"""Token distillation: new rows trained against the model's own states on the old cut of the same text.

Dobler et al. 2025 (token distillation, "AweDist"). The teacher is the model on the old pieces, the student the same
model on the new ones; body and old rows stand still. At every position behind a new piece the two have read the same
text, so their last hidden states should agree:

    L_in  = mean over positions j of |h_student[j] - h_teacher[end(j)]|^2 / mean |h_teacher|^2
    L_out = cross-entropy of the text in the new cut, without a gradient through the hidden states

The first trains input rows, the second output rows; tied rows get both, the second scaled to the size of the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from adapt.evaluation.bits_per_byte import evaluating
from adapt.vocabulary.evidence import on_accelerator
from adapt.vocabulary.initialisation.base import NewRows, Side
from adapt.vocabulary.initialisation.filling import read_rows, weight_of, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.vocabulary.alignment import Snippet

_IGNORED = -100


@dataclass(frozen=True)
class Fit:
    """How long and how fast: see the settings of `Distil`."""

    steps: int
    batch: int
    rate: float
    minutes: float | None


@dataclass(frozen=True)
class Batch:
    """Snippets padded on the right: ids and masks `[b, n]` of the new cut and `[b, m]` of the old one.

    `ends` `[b, n]` is the old position of each new one, `aligned` `[b, n]` where the two states are compared,
    `targets` `[b, n]` the next id in the new cut.
    """

    new: torch.Tensor
    new_mask: torch.Tensor
    old: torch.Tensor
    old_mask: torch.Tensor
    ends: torch.Tensor
    aligned: torch.Tensor
    targets: torch.Tensor


def fit(model: PreTrainedModel, sides: Mapping[Side, NewRows], found: Sequence[Snippet], plan: Fit) -> dict[str, Any]:
    """Train the new rows of `model` in place; returns the losses at both ends and how many rows no text showed.

    A row whose piece does not occur in the snippets keeps its value: at the output the softmax alone would push it.
    """
    new = next(iter(sides.values()))
    with on_accelerator(model), evaluating(model), _frozen(model):
        rows = {side: read_rows(model, known).float().requires_grad_() for side, known in sides.items()}
        seen = _seen(new.ids, found).to(model.device)
        for row in rows.values():
            row.register_hook(lambda gradient: gradient * seen[:, None])
        losses = list(_updates(model, sides, rows, found, plan))
        for side, known in sides.items():
            write_rows(model, known, rows[side].detach())
    return {
        "steps": len(losses),
        "snippets": len(found),
        "rows_without_text": int((~seen).sum()),
        "loss_before": dict(zip(("states", "text"), losses[0], strict=True)),
        "loss_after": dict(zip(("states", "text"), losses[-1], strict=True)),
    }


def _updates(
    model: PreTrainedModel,
    sides: Mapping[Side, NewRows],
    rows: Mapping[Side, torch.Tensor],
    found: Sequence[Snippet],
    plan: Fit,
) -> Iterator[tuple[float, float]]:
    """One pair of losses an update."""
    new = next(iter(sides.values()))
    groups = [
        {"params": [row], "lr": plan.rate * root_mean_square(weight_of(model, side).detach()[new.ordinary])}
        for side, row in rows.items()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / plan.steps)
    random = torch.Generator().manual_seed(new.seed)
    end = time.monotonic() + 60 * plan.minutes if plan.minutes else None
    with _with_rows(model, new.ids, rows):
        for step in range(plan.steps):
            if step and end is not None and time.monotonic() > end:
                return
            chosen = torch.randint(len(found), (plan.batch,), generator=random).tolist()
            states, text = losses(model, batch_of([found[index] for index in chosen], model.device))
            scale = (states / text).detach() if new.tied else 1.0
            optimizer.zero_grad()
            (states + scale * text).backward()
            optimizer.step()
            schedule.step()
            yield states.item(), text.item()


def losses(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """`L_in` and `L_out` of a batch, with gradients for the new rows alone; see the module."""
    student: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, _, out: student.append(out.last_hidden_state))
    try:
        logits = model(input_ids=batch.new, attention_mask=batch.new_mask, use_cache=False).logits
    finally:
        hook.remove()
    with torch.no_grad():
        states = model.base_model(input_ids=batch.old, attention_mask=batch.old_mask, use_cache=False).last_hidden_state
    expected = states.gather(1, batch.ends[..., None].expand(-1, -1, states.shape[-1]))[batch.aligned].float()
    apart = (student[0][batch.aligned].float() - expected).pow(2).mean() / expected.pow(2).mean()
    text = functional.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=_IGNORED)
    return apart, text


def batch_of(found: Sequence[Snippet], device: torch.device) -> Batch:
    """Snippets as padded tensors on the model's device."""
    wide, deep = max(len(one.new) for one in found), max(len(one.old) for one in found)

    def padded(rows: Sequence[Sequence[int]], width: int, filler: int = 0) -> torch.Tensor:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=device)

    aligned = [[0] * one.start + [1] * (len(one.new) - one.start) for one in found]
    return Batch(
        new=padded([one.new for one in found], wide),
        new_mask=padded([[1] * len(one.new) for one in found], wide),
        old=padded([one.old for one in found], deep),
        old_mask=padded([[1] * len(one.old) for one in found], deep),
        ends=padded([one.ends for one in found], wide),
        aligned=padded(aligned, wide).bool(),
        targets=padded([one.new[1:] for one in found], wide, _IGNORED),
    )


def root_mean_square(rows: torch.Tensor) -> float:
    """The root of the mean square of all numbers."""
    return float(rows.float().pow(2).mean().sqrt())


def _seen(ids: Sequence[int], found: Sequence[Snippet]) -> torch.Tensor:
    """Whether each new piece occurs in the snippets, `[k]`."""
    present = {index for one in found for index in one.new}
    return torch.tensor([index in present for index in ids])


@contextmanager
def _with_rows(model: PreTrainedModel, ids: Sequence[int], rows: Mapping[Side, torch.Tensor]) -> Iterator[None]:
    """The model with `rows` in place of the new rows of its matrices, as part of the graph; without a full copy."""
    head = model.get_output_embeddings()
    places = torch.tensor(list(ids), device=model.device)
    rank = torch.full((head.weight.shape[0],), -1, device=model.device)
    rank[places] = torch.arange(len(places), device=model.device)
    read, written = rows["input"], rows.get("output", rows["input"])

    def look_up(module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        mine = rank[inputs[0]]
        rows_here = functional.embedding(mine.clamp_min(0), read) * getattr(module, "embed_scale", 1.0)
        return torch.where(mine[..., None] >= 0, rows_here.to(out.dtype), out)

    def predict(module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias[places]
        logits = functional.linear(inputs[0].detach(), written.to(out.dtype), bias)
        return out.detach().index_copy(-1, places, logits)

    hooks = [model.get_input_embeddings().register_forward_hook(look_up), head.register_forward_hook(predict)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter of the model gathers gradients; afterwards those train again that did before."""
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in training:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in training:
            parameter.requires_grad_(True)
