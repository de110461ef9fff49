"""Runs of the methods that thin out task vectors, ours and mergekit's, on the same tensors."""

from __future__ import annotations

import torch

from merge.methods.base import REQUIRED, Method, Values
from merge.methods.breadcrumbs import Breadcrumbs
from merge.methods.breadcrumbs_ties import BreadcrumbsTies
from merge.methods.dare_linear import DareLinear
from merge.methods.dare_ties import DareTies
from merge.methods.della import Della
from merge.methods.della_linear import DellaLinear
from merge.methods.on_tensors import merge_tensors
from merge.methods.sce import Sce
from merge.methods.ties import Ties
from merge.random import uniform

LINEAR = (Breadcrumbs, DareLinear, DellaLinear)
ELECTED = (Ties, BreadcrumbsTies, DareTies, Della)
THINNING = LINEAR + ELECTED
FAMILY = (*THINNING, Sce)
TINY, ODD, HUGE = 1, 777, 2**20
"""Sizes of blocks: one row, a few, the whole tensor."""


def values_of(method: type[Method], count: int, **given) -> Values:
    """Values for all parameters: a single value stands for every input, what is not given takes its default."""
    common, each = {}, {}
    for parameter in method.parameters:
        value = given.pop(parameter.name.rstrip("_"), parameter.default)
        if value is REQUIRED:
            value = 1.0
        if parameter.each:
            each[parameter.name] = value if isinstance(value, list) else [value] * count
        else:
            common[parameter.name] = value
    assert not given, f"{method.name} has no {list(given)}"
    return Values(common, each)


def ours(method: type[Method], models, base, seed=0, name="w", size=2**18, **given) -> torch.Tensor:
    return merge_tensors(method(), models, base, values_of(method, len(models), **given), seed, name, size)


def theirs(method: type[Method], models, base, **given) -> torch.Tensor:
    from mergekit.merge_methods import merge_tensors as merge

    if any(parameter.name == "weight" for parameter in method.parameters):
        given = {"weight": 1.0, **given}
    return merge([base, *models], method.name, base_index=0, parameters=given)


def family(count=3, shape=(40, 97), dtype=torch.float32, size=1e-3, seed=0):
    """A base and models near it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator).mul(0.02).to(dtype)
    models = [(base.float() + size * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)]
    return models, base


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-6 of the largest element, float32."""
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def same_bits(method: type[Method], models, base, **given) -> torch.Tensor:
    """The result, once it is known to be the same for blocks of any size."""
    results = [ours(method, models, base, size=size, **given) for size in (TINY, ODD, HUGE)]
    assert all(torch.equal(results[0].view(torch.int32), other.view(torch.int32)) for other in results[1:])
    return results[0]


def replay(monkeypatch, shape, inputs) -> None:
    """Give mergekit, whose draws depend on nothing but their order, the numbers that ours drew for these inputs."""
    count = torch.Size(shape).numel()
    numbers = iter([uniform((0, index, "w"), 0, count) for index in inputs])
    monkeypatch.setattr(torch, "bernoulli", lambda p: (next(numbers).view(p.shape) < p).to(p.dtype))
