"""Rows that some models of a call lack, because their vocabularies do not have the token.

A model that lacks a row has the base's there, so its task vector is zero. Where the base lacks it, nothing can be said
of task vectors: the row is that of the first model that has it. A row that one model alone has is that model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Mask = torch.Tensor | None
"""Which rows of a block there are, `[n]`; None for all."""


def fill(inputs: Sequence[torch.Tensor], base: torch.Tensor | None, known: Sequence[Mask], base_known: Mask) -> None:
    """Put a substitute into every row that is lacking, in place; `inputs` and `base` are `[n, c]`.

    Without a base, models that lack a row take it from the first model that has it.
    """
    if base_known is None and all(mask is None for mask in known):
        return
    whole = torch.ones(inputs[0].shape[0], dtype=torch.bool, device=inputs[0].device)
    masks = [whole if mask is None else mask for mask in known]
    ground = whole if base_known is None else base_known
    reference = inputs[0].clone() if base is None else base
    missing = ~masks[0] if base is None else ~ground
    for mask, values in zip(masks, inputs, strict=True):
        take = missing & mask
        reference[take] = values[take]
        missing = missing & ~take
    for mask, values in zip(masks, inputs, strict=True):
        lacking = ~(mask & ground)
        values[lacking] = reference[lacking]


def take_over(
    result: torch.Tensor, known: Sequence[Mask], base_known: Mask, rows: Sequence[Callable[[], torch.Tensor]]
) -> None:
    """Set rows of a result, in place, that are no combination: those of one model alone, and those without a base.

    `known` and `rows` are the models' and, last, the base's where there is one.
    """
    if all(mask is None for mask in known):
        return
    whole = torch.ones(result.shape[0], dtype=torch.bool, device=result.device)
    masks = torch.stack([whole if mask is None else mask for mask in known])
    left = masks.sum(0) == 1
    if base_known is not None:
        left |= ~base_known
    for mask, give in zip(masks, rows, strict=True):
        take = left & mask
        if bool(take.any()):
            result[take] = give()[take].to(result.dtype)
            left &= ~take
