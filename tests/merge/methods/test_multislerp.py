from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.methods.multislerp import MultiSlerp
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged, strangers

BASED = pytest.mark.parametrize("based", [True, False], ids=["based", "free"])


@BASED
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_as_mergekit(shape, based, normalize):
    base, models = family(shape, 3, shared=0.3)
    weights = [0.3, 0.5, 1.0]
    assert_as_mergekit(MultiSlerp(), models, base if based else None, weight=weights, normalize_weights=normalize)


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(0.05, 3), min_size=2, max_size=5), seed=st.integers(0, 99), eps=st.floats(1e-9, 0.1))
def test_as_mergekit_with_any_weights_and_eps(weights, seed, eps):
    """mergekit adds eps to the length of its step on the tangent space, which is rounding: relative to it eps is the
    whole step, so both end at the cosine of eps."""
    models = strangers((11, 13), len(weights), seed)
    assert_as_mergekit(MultiSlerp(), models, weight=weights, eps=eps, tolerance=3e-6)


@BASED
def test_one_model_and_equal_models(based):
    base, (model,) = family((6, 7), 1)
    ground = base if based else None
    assert torch.equal(merged(MultiSlerp(), [model], ground, weight=0.3), model)
    assert_near(merged(MultiSlerp(), [model] * 3, ground, weight=[0.3, 0.1, 0.9]), model)


def test_only_the_ratio_of_weights_counts():
    models = strangers((11, 13), 3)
    result = merged(MultiSlerp(), models, weight=[1.0, 2.0, 3.0])
    assert_near(merged(MultiSlerp(), models, weight=[0.1, 0.2, 0.3]), result)


def test_the_length_is_the_mean_length_and_the_place_on_the_sphere_the_mean_direction():
    models = [length * tensor / tensor.norm() for length, tensor in zip((1, 2, 6), strangers((5, 9), 3), strict=True)]
    result = merged(MultiSlerp(), models, weight=1.0)
    direction = sum(model / model.norm() for model in models)
    assert float(result.norm()) == pytest.approx(3.0, rel=1e-6)
    assert_near(result, 3.0 * direction / direction.norm())


@BASED
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_two_opposed_task_vectors_are_interpolated_linearly(based, factor):
    base, vector = strangers((6, 7), 2)
    start = base if based else torch.zeros_like(base)
    models = [start + vector, start - factor * vector]
    assert_near(merged(MultiSlerp(), models, base if based else None, weight=1.0), start + (1 - factor) / 2 * vector)


def test_zero_vectors():
    vector = strangers((6, 7), 1)[0]
    zero = torch.zeros_like(vector)
    assert_as_mergekit(MultiSlerp(), [vector, zero], weight=1.0)
    assert not merged(MultiSlerp(), [zero, zero], weight=1.0).any()


def test_more_directions_that_cancel_are_refused():
    first, second = strangers((6, 7), 2)
    with pytest.raises(MergeError) as error:
        merged(MultiSlerp(), [first, -first, second, -second], weight=1.0)
    assert str(error.value) == "multislerp: the inputs' directions cancel under the weights 1, 1, 1, 1; change a weight"


def test_weights_without_a_sum_are_refused():
    with pytest.raises(MergeError) as error:
        merged(MultiSlerp(), strangers((6, 7), 2), weight=[1.0, -1.0])
    assert str(error.value) == (
        "multislerp: the weights 1, -1 sum to 0, so they have no shares; set normalize_weights to false"
    )
