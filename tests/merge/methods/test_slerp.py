from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.methods.slerp import Slerp
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged, strangers


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("t", [0.3, 1.0, 1.5, -0.2])
def test_as_mergekit(shape, t):
    first, second = strangers(shape, 2)
    assert_as_mergekit(Slerp(), [second], first, t=t)


@settings(max_examples=12, deadline=None)
@given(drift=st.floats(0.0, 3.0), t=st.floats(-0.5, 1.5), seed=st.integers(0, 99))
def test_as_mergekit_from_equal_models_to_strangers(drift, t, seed):
    base, models = family((23, 29), 1, seed, drift)
    assert_as_mergekit(Slerp(), models, base, t=t)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ends_are_exact(shape):
    first, second = strangers(shape, 2)
    assert torch.equal(merged(Slerp(), [second], first, t=0.0), first)
    assert torch.equal(merged(Slerp(), [second], first, t=1.0), second)


@settings(max_examples=15, deadline=None)
@given(t=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_between_vectors_of_one_length_the_length_stays_and_the_angle_is_divided(t, seed):
    first, second = (tensor / tensor.norm() for tensor in strangers((13, 17), 2, seed))
    result = merged(Slerp(), [second], first, t=t)
    whole = math.acos(float((first * second).sum()))
    assert float(result.norm()) == pytest.approx(1, abs=1e-6)
    assert float((result * first).sum()) == pytest.approx(math.cos(t * whole), abs=1e-6)
    assert_near(merged(Slerp(), [first], second, t=1 - t), result)


def test_a_zero_vector_stands_at_a_right_angle():
    vector = strangers((5, 6), 1)[0]
    zero = torch.zeros_like(vector)
    result = assert_as_mergekit(Slerp(), [vector], zero, t=0.5)
    assert_near(result, math.sin(math.pi / 4) * vector)
    assert not merged(Slerp(), [zero], zero, t=0.5).any()


def test_collinear_and_opposed_vectors_are_interpolated_linearly():
    vector = strangers((5, 6), 1)[0]
    assert_near(assert_as_mergekit(Slerp(), [3 * vector], vector, t=0.25), 1.5 * vector)
    assert_near(assert_as_mergekit(Slerp(), [-3 * vector], vector, t=0.5), -vector)
    assert not merged(Slerp(), [-vector], vector, t=0.5).any()


def test_large_and_small_numbers():
    first, second = strangers((5, 6), 2)
    assert_as_mergekit(Slerp(), [second * 1e15], first * 1e-5, t=0.4)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 1e30])
def test_numbers_that_have_no_angle_are_refused(bad):
    first, second = strangers((5, 6), 2)
    second[2, 3] = bad
    with pytest.raises(MergeError) as error:
        merged(Slerp(), [second], first, t=0.5)
    assert str(error.value) == "an input holds a number that is not finite, or whose square is beyond float32"
