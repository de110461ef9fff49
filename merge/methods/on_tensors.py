"""The methods as functions on tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from merge.methods.base import Block, Method, Values
from merge.random import uniform

ROWS_AT_ONCE = 2**18
"""Elements that a block holds at most, unless one row is larger."""


def blocks_of(
    inputs: Sequence[torch.Tensor], base: torch.Tensor | None, seed: int, name: str, size: int = ROWS_AT_ONCE
) -> Iterator[Block]:
    """The blocks of tensors of one shape, as float32 copies."""
    shape = tuple(inputs[0].shape)
    flat = [_rows(tensor) for tensor in inputs]
    ground = None if base is None else _rows(base)
    height, width = flat[0].shape
    step = max(1, size // max(1, width))
    for first in range(0, height, step):
        cut = slice(first, min(first + step, height))
        count = cut.stop - first

        def draw(index: int, first: int = first, count: int = count) -> torch.Tensor:
            return uniform((seed, index, name), first * width, count * width, inputs[0].device).view(count, width)

        copies = [tensor[cut].to(torch.float32, copy=True) for tensor in flat]
        yield Block(copies, None if ground is None else ground[cut].to(torch.float32, copy=True), first, shape, draw)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(1, -1) if tensor.dim() < 2 else tensor.reshape(tensor.shape[0], -1)


def merge_tensors(
    method: Method,
    inputs: Sequence[torch.Tensor],
    base: torch.Tensor | None = None,
    values: Values | None = None,
    seed: int = 0,
    name: str = "",
    size: int = ROWS_AT_ONCE,
) -> torch.Tensor:
    """Combine tensors of one shape; float32. `seed` and `name` fix what a random method draws."""
    values = values or Values()
    method.check(values)
    shape = tuple(inputs[0].shape)
    summary = method.summarise(lambda: blocks_of(inputs, base, seed, name, size), values, shape)
    parts: list[Any] = [method.combine(block, values, summary) for block in blocks_of(inputs, base, seed, name, size)]
    return torch.cat(parts).reshape(shape)
