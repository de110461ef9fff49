"""DELLA: probabilities by rank, and mergekit's result for the same draws."""

from __future__ import annotations

import pytest
import torch

from merge.errors import MergeError
from merge.methods import random_masks
from merge.methods.della import Della
from merge.methods.della_linear import DellaLinear
from merge.methods.magprune import keep
from merge.random import uniform
from tests.merge.methods.thinning import assert_close, family, ours, replay, same_bits, theirs

BOTH = pytest.mark.parametrize("method", [Della, DellaLinear])


def ranked(count: int, shape: tuple[int, int]):
    """Models on a base of 0 whose rows hold the numbers 1 to c in some order, with signs: magnitudes all different."""
    generator = torch.Generator().manual_seed(0)
    models = []
    for _ in range(count):
        order = torch.rand(shape, generator=generator).argsort(1) + 1.0
        models.append(order * (torch.rand(shape, generator=generator) < 0.5).float().mul(2).sub(1))
    return models, torch.zeros(shape)


def drawn(index: int, shape: tuple[int, int]) -> torch.Tensor:
    return uniform((0, index, "w"), 0, shape[0] * shape[1]).view(shape)


@BOTH
@pytest.mark.parametrize("shape", [(40, 97), (3, 2000), (50, 2), (2, 4095)])
@pytest.mark.parametrize("given", [{}, {"rescale": False, "normalize": False}, {"lambda": 0.5}])
def test_as_mergekit_for_the_same_draws(monkeypatch, method, shape, given):
    models, base = ranked(3, shape)
    given = {"weight": [1.0, 0.5, 0.3], "density": [0.5, 0.8, 1.0], "epsilon": 0.15, **given}
    result = same_bits(method, models, base, **given)
    replay(monkeypatch, shape, inputs=(0, 1))
    assert_close(result, theirs(method, models, base, **given))


@pytest.mark.parametrize(("spread", "share"), [(0.0, 2e-4), (2.0, 3e-3)])
def test_magnitudes_that_agree_in_16_bits_alone_are_drawn_differently(monkeypatch, spread, share):
    """Of normal numbers hardly any, of log-normal ones those far below the row's largest."""
    generator = torch.Generator().manual_seed(3)
    shape = (20, 3000)
    model = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).mul(spread).exp()
    result = ours(DellaLinear, [model], torch.zeros(shape), density=0.5, rescale=False)
    replay(monkeypatch, shape, inputs=(0,))
    differs = result != theirs(DellaLinear, [model], torch.zeros(shape), density=0.5, rescale=False)
    assert differs.float().mean() < share


def test_equal_magnitudes_share_the_probability_of_their_mean_rank():
    shape = (100, 2000)
    values = torch.ones(shape)
    values[:, ::2] = -2.0
    kept = torch.from_numpy(keep(values, drawn(0, shape), 0.5, 0.2)).float()
    for group, probability in ((kept[:, 1::2], 0.4), (kept[:, ::2], 0.6)):
        assert abs(group.mean() - probability) < 4 * 0.5 / group.numel() ** 0.5


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-44])
def test_a_row_without_ranks_is_kept_with_the_density(value):
    kept = torch.from_numpy(keep(torch.full((100, 1000), value), drawn(0, (100, 1000)), 0.3, 0.2)).float()
    assert abs(kept.mean() - 0.3) < 4 * 0.5 / 1e5**0.5


def test_a_row_of_one_element_is_kept_with_the_density():
    """mergekit divides 0 by 0 here."""
    models, base = family(1, (20_000, 1), size=1.0)
    kept = (ours(Della, models, base, density=0.3, rescale=False) != base).float().mean()
    assert abs(kept - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5


def test_without_epsilon_it_is_dare():
    from merge.methods.dare_ties import DareTies

    models, base = family()
    given = {"density": 0.4, "normalize": True}
    assert torch.equal(ours(Della, models, base, epsilon=0.0, **given), ours(DareTies, models, base, **given))


@BOTH
def test_masks_too_large_to_be_held_are_drawn_again(monkeypatch, method):
    models, base = family(2)
    held = ours(method, models, base, density=0.3)
    monkeypatch.setattr(random_masks.HELD, "left", 0)
    assert torch.equal(held, ours(method, models, base, density=0.3, size=500))


@BOTH
def test_nothing_and_everything(method):
    (model, *_), base = family()
    assert torch.equal(ours(method, [model], base, density=0.0), base)
    assert_close(ours(method, [model], base, density=1.0), model)


@BOTH
@pytest.mark.parametrize(("density", "bound"), [(0.1, "0.1"), (0.9, "0.1"), (0.15, "0.15")])
def test_probabilities_outside_of_0_and_1(method, density, bound):
    models, base = family(2)
    message = f"^{method.name}: density {density} with epsilon 0.15 gives .*; choose epsilon below {bound}$"
    with pytest.raises(MergeError, match=message):
        ours(method, models, base, density=[0.5, density])
