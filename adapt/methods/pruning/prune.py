"""A model made smaller in memory, in place, and its storage against that of the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.methods.pruning.importance import add_gradients, best, scores
from adapt.methods.pruning.structure import Kept, families

if TYPE_CHECKING:
    from adapt.methods.base import Batches
    from adapt.methods.pruning.settings import Pruning


def choose(model: Any, settings: Pruning, batches: Batches) -> dict[str, Kept]:
    """What stays of each linear layer that loses something. Raises AdaptError where nothing would be lost at all."""
    found = families(model)
    beyond = [text for text in settings.layers if int(text.split("-")[-1]) >= len(found)]
    if beyond:
        raise AdaptError(f"prune.layers: '{beyond[0]}' goes past the model's last layer, {len(found) - 1}")
    if settings.criterion == "taylor":
        add_gradients(model, {name for pair in found for family in pair for name in family.modules()}, batches)
    kept: dict[str, Kept] = {}
    for index, (pair, ratio) in enumerate(zip(found, settings.ratios(len(found)), strict=True)):
        for kind, family in enumerate(pair):
            parts = best(scores(model, family, settings, 2 * index + kind), ratio)
            if len(parts) < family.count:
                kept |= family.kept(parts)
    model.zero_grad(set_to_none=True)
    return kept


def cut_any(model: Any, settings: Pruning) -> None:
    """Cut as much as the settings say, of a model without values: parts are drawn, whatever the criterion."""
    cut(model, choose(model, settings.model_copy(update={"criterion": "random"}), lambda: iter(())))


def cut(model: Any, kept: Mapping[str, Kept]) -> None:
    """Keep only these coordinates of the linear layers; each remembers them as `kept_rows` and `kept_columns`."""
    for name, coordinates in kept.items():
        module = model.get_submodule(name)
        module.full_shape = tuple(module.weight.shape)
        module.weight = nn.Parameter(coordinates.of(module.weight.detach()).clone(), requires_grad=False)
        if module.bias is not None and coordinates.rows is not None:
            module.bias = nn.Parameter(Kept(coordinates.rows).of(module.bias.detach()).clone(), requires_grad=False)
        module.out_features, module.in_features = module.weight.shape
        module.register_buffer("kept_rows", coordinates.rows, persistent=False)
        module.register_buffer("kept_columns", coordinates.columns, persistent=False)


def kept_in(module: nn.Module) -> Kept:
    """What stays of a linear layer that was cut; everything of another one."""
    return Kept(getattr(module, "kept_rows", None), getattr(module, "kept_columns", None))


def quantise(model: Any, dtype: torch.dtype) -> None:
    """Put the linear layers of the blocks into NF4 with double quantisation, in place, as qlora loads them.

    `dtype` is the format of the products.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.base_model.named_modules()):
        if type(module) is not nn.Linear:
            continue
        place = {"quant_type": "nf4", "compress_statistics": True}
        packed = Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=dtype,
            device="meta",
            **place,
        )
        device = module.weight.device
        packed.weight = Params4bit(module.weight.data.cpu(), requires_grad=False, module=packed, **place).to(device)
        if hasattr(module, "full_shape"):
            packed.full_shape = module.full_shape
        packed.bias, packed.support_avx512bf16_for_cpu = module.bias, False
        for buffer, value in module.named_buffers(recurse=False):
            packed.register_buffer(buffer, value, persistent=False)
        parent, _, child = name.rpartition(".")
        setattr(model.base_model.get_submodule(parent), child, packed)
    model.is_loaded_in_4bit = True  # what peft looks at


def storage(model: Any) -> dict[str, int]:
    """Parameters and bytes of all weights, tied ones once: 2 bytes for a number, for packed ones what they take.

    So the ratio of two models' bytes is that of LoRAM's paper, whichever format a run computes in. A block of 4-bit
    numbers takes its scales besides.
    """
    numbers = stored = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is None:
            numbers, stored = numbers + parameter.numel(), stored + 2 * parameter.numel()
            continue
        scales = state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
        numbers, stored = numbers + state.shape.numel(), stored + parameter.nbytes + scales
    return {"parameters": numbers, "bytes": stored}
