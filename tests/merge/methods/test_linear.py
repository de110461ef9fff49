from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.methods.gram import mean
from merge.methods.linear import Linear
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, merged, strangers

WEIGHTS = st.lists(st.floats(0.01, 10.0), min_size=2, max_size=4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_as_mergekit(shape, normalize):
    assert_as_mergekit(Linear(), strangers(shape, 3), weight=[0.3, 0.5, 1.0], normalize=normalize)


@settings(max_examples=15, deadline=None)
@given(weights=WEIGHTS, scale=st.floats(0.01, 100.0))
def test_only_the_ratio_of_weights_counts(weights, scale):
    inputs = strangers((7, 5), len(weights))
    expected = sum(weight * tensor.double() for weight, tensor in zip(weights, inputs, strict=True)) / sum(weights)
    for factor in (1.0, scale):
        assert_near(merged(Linear(), inputs, weight=[factor * w for w in weights]).double(), expected)


@settings(max_examples=15, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 99))
def test_the_mean_of_equal_models_is_that_model(weights, seed):
    model = strangers((9, 11), 1, seed)[0]
    assert torch.equal(merged(Linear(), [model] * len(weights), weight=weights), model)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_weight_of_one_beside_zeros_picks_its_model_whatever_the_others_hold(normalize):
    inputs = [torch.full((4, 3), torch.nan), *strangers((4, 3), 2)]
    result = merged(Linear(), inputs, weight=[0.0, 1.0, 0.0], normalize=normalize)
    assert torch.equal(result, inputs[1])


def test_all_weights_zero_gives_zeros():
    assert not merged(Linear(), strangers((4, 3), 2), weight=0.0, normalize=False).any()


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.1, 0.2, -0.3], [0.0, 0.0]], ids=str)
def test_weights_that_sum_to_zero_have_no_shares(weights):
    shown = ", ".join(f"{weight:g}" for weight in weights)
    with pytest.raises(MergeError) as error:
        merged(Linear(), strangers((2, 2), len(weights)), weight=weights)
    assert str(error.value) == (f"linear: the weights {shown} sum to 0, so they have no shares; set normalize to false")


def test_the_mean_starts_from_the_largest_share():
    """Beside a large share a far-off tensor of share 0 costs no digit."""
    near = torch.tensor([1.0, 1e-8, -3.0])
    assert torch.equal(mean([torch.full((3,), 1e8), near.clone()], [0.0, 1.0]), near)
