from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.karcher import Karcher, spherical_mean
from merge.methods.slerp import Slerp
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged, strangers


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_mergekit(shape, count):
    assert_as_mergekit(Karcher(), family(shape, count, drift=1.5)[1])


@settings(max_examples=12, deadline=None)
@given(count=st.integers(2, 5), drift=st.floats(0.001, 3), steps=st.integers(0, 12), seed=st.integers(0, 99))
def test_as_mergekit_from_near_models_to_strangers(count, drift, steps, seed):
    _, models = family((31, 37), count, seed, drift)
    assert_as_mergekit(Karcher(), models, max_iter=steps, tol=1e-4, tolerance=3e-6)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_logs_at_the_mean_sum_to_zero(count, seed):
    models = [model.double() for model in family((9, 13), count, seed, drift=1.0)[1]]
    mean = merged(Karcher(), models, max_iter=100, tol=1e-7).double()
    assert float(mean.norm()) == pytest.approx(sum(float(model.norm()) for model in models) / count, rel=1e-6)
    mean /= mean.norm()
    logs = torch.zeros_like(mean)
    for model in models:
        unit = model / model.norm()
        angle = torch.acos((unit * mean).sum())
        logs += angle / torch.sin(angle) * (unit - torch.cos(angle) * mean)
    assert float(logs.norm()) < 1e-5


def test_the_mean_of_two_of_one_length_is_the_middle_of_slerp():
    models = [tensor / tensor.norm() for tensor in strangers((9, 13), 2)]
    assert_near(merged(Karcher(), models), merged(Slerp(), models[1:], models[0], t=0.5))


def test_one_model_equal_models_and_collinear_models():
    model = strangers((6, 7), 1)[0]
    assert torch.equal(merged(Karcher(), [model]), model)
    assert_near(merged(Karcher(), [model] * 3), model)
    assert_near(assert_as_mergekit(Karcher(), [model, 3 * model]), 2 * model)


def test_zero_vectors_have_no_direction_but_a_length():
    first, second = strangers((6, 7), 2)
    zero = torch.zeros_like(first)
    assert_as_mergekit(Karcher(), [first, zero, second])
    assert not merged(Karcher(), [zero, zero]).any()


def test_opposed_vectors_give_the_first_at_the_mean_length():
    """Every great circle through both has a middle; mergekit's answer is the first."""
    vector = strangers((6, 7), 1)[0]
    assert_near(assert_as_mergekit(Karcher(), [vector, -vector]), vector)
    assert_near(merged(Karcher(), [vector, -3 * vector]), 2 * vector)


def test_three_axes_meet_in_the_diagonal():
    assert spherical_mean([[float(i == j) for j in range(3)] for i in range(3)], 10, 1e-9) == pytest.approx(
        [1 / math.sqrt(3)] * 3
    )
