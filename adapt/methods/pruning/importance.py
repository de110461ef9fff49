"""How much a part of a model matters: what its loss would do to the loss, how large it is, or a draw.

Ma et al. 2023, "LLM-Pruner", arXiv 2305.11627: the importance of a coupled structure is the sum over its weights of
`|w dL/dw|`, the first-order change of the loss when w becomes zero, with gradients summed over a few samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from adapt.methods.pruning.structure import Family
from adapt.training.loss import inputs_of, whole_loss

if TYPE_CHECKING:
    from adapt.methods.base import Batches
    from adapt.methods.pruning.settings import Pruning

SAMPLES = 16
"""Sequences, at least, on which gradients are summed."""


def add_gradients(model: Any, modules: set[str], batches: Batches) -> None:
    """Leave in the weights of `modules` the gradient of the loss summed over a few sequences."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in modules)
    seen, device = 0, next(model.parameters()).device
    for batch in batches():
        batch = {name: value.to(device) for name, value in batch.items()}
        whole_loss(model(**inputs_of(batch)).logits, batch["labels"]).backward()
        seen += len(batch["labels"])
        if seen >= SAMPLES:
            break
    model.requires_grad_(False)


def scores(model: Any, family: Family, settings: Pruning, place: int) -> torch.Tensor:
    """The importance of each part, `[count]`; with `taylor` the weights hold gradients. `place` goes into a draw."""
    if settings.criterion == "random":
        return torch.rand(family.count, generator=torch.Generator().manual_seed(settings.seed * 100_003 + place))
    weights = {name: model.get_submodule(name).weight for name in family.modules()}
    if settings.criterion == "magnitude":
        return family.sums({name: weight.detach().float().cpu().square() for name, weight in weights.items()})
    changes = {name: (weight.detach() * weight.grad).float().cpu().abs() for name, weight in weights.items()}
    return family.sums(changes)


def best(values: torch.Tensor, ratio: float) -> torch.Tensor:
    """The places of the most important parts, ascending, when a share `ratio` goes; one at least."""
    count = max(1, round(len(values) * (1 - ratio)))
    return values.topk(count).indices.sort().values
