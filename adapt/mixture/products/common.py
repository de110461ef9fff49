"""What the products share: the type that they compute in, and gates as rows."""

from __future__ import annotations

import torch

from adapt.mixture.stack import Stack


def compute_type(inputs: torch.Tensor, stack: Stack) -> torch.dtype:
    """Autocast's type where it is on, else that of the factors, as in peft's LoRA layers."""
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return stack.blocks[0].a.dtype if stack.blocks else inputs.dtype


def rows(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Gates `[..., n]` of inputs `[..., in]` as `[tokens, n]`."""
    return values.expand(*inputs.shape[:-1], values.shape[-1]).reshape(-1, values.shape[-1])
