"""Comparisons of many elements, by numpy where they lie in host memory: a sixth of the time that torch takes there."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray | torch.Tensor
"""Of torch where it lies on a GPU."""


def array(tensor: torch.Tensor) -> Array:
    """The tensor for comparisons, sharing its memory."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def numbers(mask: Array) -> torch.Tensor:
    """A mask as float32 zeros and ones, where it lies."""
    if isinstance(mask, torch.Tensor):
        return mask.to(torch.float32)
    return torch.from_numpy(mask.view(np.uint8)).to(torch.float32)


def places(mask: Array) -> np.ndarray:
    """Where a flat mask is true, ascending, in host memory."""
    if isinstance(mask, torch.Tensor):
        return mask.nonzero().view(-1).cpu().numpy()
    return np.flatnonzero(mask)


def count_zeros(values: Array) -> int:
    """How many elements are zero."""
    if isinstance(values, torch.Tensor):
        return values.numel() - int(torch.count_nonzero(values))
    return int(np.count_nonzero(values == 0))


def sorted_rows(keys: torch.Tensor) -> torch.Tensor:
    """Each row of int16 `[n, c]` in ascending order; in host memory by a radix sort."""
    if keys.device.type == "cpu":
        return torch.from_numpy(np.sort(keys.numpy(), axis=1, kind="stable"))
    return keys.sort(dim=1).values


def taken(values: torch.Tensor, at: np.ndarray) -> np.ndarray:
    """The elements of a flat tensor at these places, in host memory."""
    if values.device.type == "cpu":
        return values.numpy()[at]
    return values[torch.from_numpy(at).to(values.device)].cpu().numpy()
