"""A model as a method trains it, without a single value: parameters on the meta device, in their formats.

`Method.outline` does to a model without values what `Method.build` does to a loaded one, so that what trains, and in
which format everything else is held, is read off the method itself before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch

_BLOCK, _GROUP = 64, 256
"""Weights that share a scale, and scales that share one: Dettmers et al. 2023, arXiv 2305.14314, section 3."""
_TABLE = 16 * 4
"""Bytes of the 16 values that 4 bits stand for, held with every matrix."""
_SECOND = 256 * 4 + 4
"""Bytes of the 256 values that a scale in 8 bits stands for, and of the scales' mean."""


class UnplannedError(AdaptError):
    """Why there is no estimate of a stage, in a few words; nothing is wrong with the stage."""


def nf4_bytes(count: int) -> int:
    """Bytes of a matrix of `count` numbers in 4 bits with double quantisation, as bitsandbytes holds it.

    Half a byte a number, a scale of 1 byte for each 64 numbers, one of 4 bytes for each 256 scales, two small tables.
    """
    scales = math.ceil(count / _BLOCK)
    return math.ceil(count / 2) + scales + 4 * math.ceil(scales / _GROUP) + _TABLE + _SECOND


def in_four_bits(model: Any, names: Iterable[str]) -> None:
    """Say of the weights of some linear layers that they are held in NF4."""
    for name in names:
        model.get_submodule(name).weight.four_bits = True


def linear_layers(model: Any) -> list[str]:
    """The names of the linear layers that bitsandbytes quantises: all but the output embedding."""
    from torch import nn

    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]


def bytes_of(parameter: torch.Tensor) -> int:
    """Bytes of a parameter in the format in which it is held."""
    count = parameter.numel()
    return nf4_bytes(count) if getattr(parameter, "four_bits", False) else count * parameter.element_size()
