"""DARE: its masks, its two ways to rescale, and mergekit's result for the same masks."""

from __future__ import annotations

import pytest
import torch

from merge.errors import MergeError
from merge.methods import random_masks
from merge.methods.dare_linear import DareLinear
from merge.methods.dare_ties import DareTies
from tests.merge.methods.thinning import assert_close, family, ours, replay, same_bits, theirs

BOTH = pytest.mark.parametrize("method", [DareLinear, DareTies])


@BOTH
@pytest.mark.parametrize("shape", [(40, 97), (300,), (3, 4, 25), (1,)])
@pytest.mark.parametrize("given", [{}, {"rescale": False}, {"normalize": True, "lambda": 0.5}])
def test_as_mergekit_for_the_same_draws(monkeypatch, method, shape, given):
    models, base = family(3, shape)
    given = {"weight": [1.0, 0.5, 0.3], "density": [0.5, 0.9, 1.0], **given}
    result = same_bits(method, models, base, **given)
    replay(monkeypatch, shape, inputs=(0, 1))
    assert_close(result, theirs(method, models, base, **given))


def test_an_element_is_kept_with_its_probability():
    base, model = torch.zeros(400, 250), torch.ones(400, 250)
    for density in (0.1, 0.5, 0.9):
        kept = ours(DareLinear, [model], base, density=density, rescale=False).mean()
        assert abs(kept - density) < 4 * (density * (1 - density) / base.numel()) ** 0.5


def test_divided_by_the_density_every_element_has_its_own_expectation():
    (model,), base = family(1, (2, 5), size=1.0)
    draws = [ours(DareLinear, [model], base, seed, density=0.4, rescale_by="density") for seed in range(4000)]
    deviation = (torch.stack(draws).mean(0) - model).abs() / (model - base).abs()
    assert deviation.max() < 4 * (0.6 / 0.4 / 4000) ** 0.5
    assert_close(draws[0] - base, torch.where(draws[0] == base, 0.0, (model - base) / 0.4))


def test_the_l1_norm_is_restored():
    (model,), base = family(1, size=1.0)
    result = ours(DareLinear, [model], base, density=0.2)
    torch.testing.assert_close((result - base).abs().sum(), (model - base).abs().sum(), rtol=1e-5, atol=0)


@BOTH
def test_models_and_tensors_draw_for_themselves(method):
    base, model = torch.zeros(50, 50), torch.ones(50, 50)
    alone = ours(method, [model], base, density=0.5)
    both = ours(method, [model, model], base, weight=[0.0, 1.0], density=0.5)
    for other in (
        both,
        ours(method, [model], base, seed=1, density=0.5),
        ours(method, [model], base, name="v", density=0.5),
    ):
        share = ((alone != 0) == (other != 0)).float().mean()
        assert 0.45 < share < 0.55


@BOTH
def test_masks_too_large_to_be_held_are_drawn_again(monkeypatch, method):
    models, base = family(2)
    held = ours(method, models, base, density=0.3)
    monkeypatch.setattr(random_masks.HELD, "left", 0)
    assert torch.equal(held, ours(method, models, base, density=0.3, size=500))


@BOTH
@pytest.mark.parametrize("rescale_by", ["l1", "density"])
def test_nothing_and_everything(method, rescale_by):
    (model, *_), base = family()
    assert torch.equal(ours(method, [model], base, density=0.0, rescale_by=rescale_by), base)
    assert_close(ours(method, [model], base, density=1.0, rescale_by=rescale_by), model)


@BOTH
def test_an_unknown_norm(method):
    models, base = family(1)
    with pytest.raises(MergeError, match=f"^{method.name}: rescale_by is 'l2'; it is l1 or density$"):
        ours(method, models, base, rescale_by="l2")
