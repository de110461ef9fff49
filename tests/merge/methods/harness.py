"""A method on tensors, beside mergekit's on the same tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from merge.methods.base import REQUIRED, Method, Values
from merge.methods.on_tensors import merge_tensors

SIZES = (1, 1000, 1337)
"""Elements of a block: one row at a time, and cuts of which the last is smaller."""
SHAPES = [(40, 77), (1, 64), (53, 1), (500,), (1,), (6, 5, 7)]
"""Matrices, vectors and a convolution's kernel, with sizes that fill no vector register."""


def values(method: Method, count: int, **given: Any) -> Values:
    """Values as the engine hands them over: with defaults, and one for each input where a method wants that."""
    common, each = {}, {}
    for parameter in method.parameters:
        value = given.pop(parameter.name, parameter.default)
        assert value is not REQUIRED, parameter.name
        if parameter.each:
            each[parameter.name] = list(value) if isinstance(value, list) else [value] * count
        else:
            common[parameter.name] = value
    assert not given
    return Values(common, each)


def merged(
    method: Method, inputs: Sequence[torch.Tensor], base: torch.Tensor | None = None, **given: Any
) -> torch.Tensor:
    """The result, which must have the same bits however the tensor is cut."""
    whole = merge_tensors(method, inputs, base, values(method, len(inputs), **given))
    for size in SIZES:
        parts = merge_tensors(method, inputs, base, values(method, len(inputs), **given), size=size)
        assert torch.equal(whole.view(torch.int32), parts.view(torch.int32)), f"blocks of {size} change the result"
    return whole


def by_mergekit(
    name: str, inputs: Sequence[torch.Tensor], base: torch.Tensor | None = None, **given: Any
) -> torch.Tensor:
    """The same by mergekit, in float32."""
    from mergekit.merge_methods.api import merge_tensors as merge_by_mergekit

    tensors = [tensor.float().clone() for tensor in ([base] if base is not None else []) + list(inputs)]
    return merge_by_mergekit(tensors, name, parameters=given, base_index=None if base is None else 0)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    """No element is further off than this share of the largest."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    scale = expected.abs().max().clamp(min=1e-30)
    assert (actual - expected).abs().max() <= tolerance * scale


def assert_as_mergekit(
    method: Method, inputs: Sequence[torch.Tensor], base: torch.Tensor | None = None, tolerance: float = 1e-6, **given
) -> torch.Tensor:
    """Both agree; the result."""
    result = merged(method, inputs, base, **given)
    assert_near(result, by_mergekit(method.name, inputs, base, **given), tolerance)
    return result


def family(shape: tuple[int, ...], count: int, seed: int = 0, drift: float = 0.1, shared: float = 0.0):
    """A base and models that moved from it by `drift`, of which the share `shared` is common to all."""
    generator = torch.Generator().manual_seed(seed)
    base, common, *own = (torch.randn(shape, generator=generator) for _ in range(count + 2))
    return base, [base + drift * (shared * common + (1 - shared) * vector) for vector in own]


def strangers(shape: tuple[int, ...], count: int, seed: int = 0) -> list[torch.Tensor]:
    """Models with nothing in common."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]
