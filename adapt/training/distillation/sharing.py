"""A teacher over the same base as its student: frozen weights that are equal lie in memory once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from adapt.methods.base import plain_model
from adapt.training.companion import Companion

_INSIDE = (".base_layer", ".base", ".ffn")
"""What the names of layers end in that an adapter, a mixture of LoRA or of domain adapters stands beside."""


def share_frozen(teacher: Any, student: Any, companions: Sequence[Companion] = ()) -> int:
    """Let a frozen teacher use its student's frozen parameters wherever they are equal; returns the bytes saved.

    Nothing is shared where a companion changes weights that do not train by gradients: they would change the teacher.
    """
    if any(type(companion).changed is not Companion.changed for companion in companions):
        return 0
    frozen = {name: (*place, own) for name, *place, own in _parameters(student) if not own.requires_grad}
    shared: dict[int, int] = {}
    for name, module, key, own in list(_parameters(teacher)):
        other = frozen.get(name)
        if other is not None and _equal(module, own, other[0], other[2]):
            shared[id(own)] = own.untyped_storage().nbytes()  # a tied one counts once
            setattr(module, key, other[2])
    return sum(shared.values())


def _parameters(model: Any) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Names as in the plain model, with the modules that hold the parameters, and their names there."""
    for path, module in plain_model(model).named_modules():
        for inside in _INSIDE:
            path = path.replace(f"{inside}.", ".").removesuffix(inside)
        for key, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{key}", module, key, parameter


def _equal(one: nn.Module, own: nn.Parameter, other: nn.Module, theirs: nn.Parameter) -> bool:
    """Whether two parameters say the same: format, place, values; in 4 bits what these stand for."""
    if own is theirs or (own.dtype, own.shape, own.device) != (theirs.dtype, theirs.shape, theirs.device):
        return False
    if type(own) is not type(theirs) or not torch.equal(own, theirs):
        return False
    states = [getattr(parameter, "quant_state", None) for parameter in (own, theirs)]
    if states == [None, None]:
        return True
    from bitsandbytes.functional import dequantize_4bit

    values = [dequantize_4bit(parameter.data, state) for parameter, state in zip((own, theirs), states, strict=True)]
    return torch.equal(*values)
