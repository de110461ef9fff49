"""TIES against mergekit and against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.ties import Ties, largest
from merge.methods.trimming import Counts
from tests.merge.methods.thinning import assert_close, family, ours, same_bits, theirs


@pytest.mark.parametrize("density", [0.0, 1e-9, 0.2, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_as_mergekit(density, normalize, rescale):
    models, base = family()
    given = {"weight": [1.0, 0.5, 0.3], "density": density, "normalize": normalize, "rescale": rescale, "lambda": 0.7}
    assert_close(same_bits(Ties, models, base, **given), theirs(Ties, models, base, **given))


@pytest.mark.parametrize("shape", [(1,), (63,), (5, 1), (3, 4, 5), (1, 300)])
def test_as_mergekit_for_any_shape(shape):
    models, base = family(2, shape)
    given = {"density": [0.3, 0.8], "rescale": True}
    assert_close(same_bits(Ties, models, base, **given), theirs(Ties, models, base, **given))


def reference(models, base, weights, density):
    """TIES as it is defined, with a stable sort, normalised by the magnitudes of weights."""
    vectors = []
    for model, weight in zip(models, weights, strict=True):
        delta = (model.float() - base.float()).flatten()
        order = torch.sort(delta.abs(), descending=True, stable=True).indices
        delta[order[max(1, int(density * len(order))) :]] = 0
        vectors.append(weight * delta)
    stacked = torch.stack(vectors)
    sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == sign
    divisor = (agrees * torch.tensor(weights).abs().unsqueeze(1)).sum(0)
    merged = (stacked * agrees).sum(0) / torch.where(divisor == 0, 1.0, divisor)
    return base.float() + merged.view(base.shape)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.9, 0.4], [1.0, -0.999, 0.5]])
def test_of_bfloat16_models_the_first_of_the_tied_are_kept(weights):
    models, base = family(dtype=torch.bfloat16)
    assert_close(same_bits(Ties, models, base, weight=weights, density=0.4), reference(models, base, weights, 0.4))


def test_of_bfloat16_models_mergekit_keeps_other_ties_and_nothing_else():
    models, base = family(2, (200, 200), torch.bfloat16)
    plain, ground = [model.float() for model in models], base.float()
    differs = ours(Ties, models, base, density=0.5) != theirs(Ties, plain, ground, density=0.5)
    tied = torch.zeros_like(differs)
    for model in plain:
        delta = (model - ground).abs()
        tied |= delta == delta.flatten().sort(descending=True).values[20_000 - 1]
    assert not (differs & ~tied).any()


def test_equal_models_give_the_model():
    (model, *_), base = family()
    assert_close(same_bits(Ties, [model] * 3, base, weight=[1.0, 0.2, 3.0]), model)


def test_a_negative_weight_subtracts_and_never_blows_up():
    """mergekit divides by 1 - 0.999 here: 1000 times the task vector."""
    models, base = family(2)
    result = ours(Ties, models, base, weight=[1.0, -0.999])
    assert (result - base).abs().max() <= 1.01 * max((model - base).abs().max() for model in models)
    subtracted = ours(Ties, models[:1], base, weight=[-1.0])
    assert_close(subtracted, 2 * base - models[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0.01, 1), order=st.permutations(range(3)))
def test_the_order_of_the_models_is_of_no_account(seed, density, order):
    models, base = family(3, (6, 11), seed=seed)
    weights = [0.5, 1.0, 0.25]
    straight = ours(Ties, models, base, weight=weights, density=density)
    turned = ours(Ties, [models[i] for i in order], base, weight=[weights[i] for i in order], density=density)
    assert_close(turned, straight)


def test_how_many_are_kept():
    assert largest(1.0, 10) is None
    assert largest(0.0, 10) == Counts(0, 0)
    assert largest(1e-12, 10) == Counts(0, 1)
    assert largest(0.39, 10) == Counts(0, 3)
