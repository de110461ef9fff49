"""The number format in which a model computes while its vocabulary grows, and the one in which it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def in_float32(model: PreTrainedModel) -> torch.dtype:
    """On a CPU let a model compute in float32, and return the format that it is stored in.

    A CPU without units for bf16 takes fifty times as long for a product in it. On a GPU nothing changes.
    """
    stored = model.dtype
    if not torch.cuda.is_available():
        in_format(model, torch.float32)
    return stored


def in_format(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The parameters in a format, unless they have several; buffers, such as positions' frequencies, stay in theirs."""
    if {parameter.dtype for parameter in model.parameters()} == {model.dtype}:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return model
