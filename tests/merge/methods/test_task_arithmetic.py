from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.task_arithmetic import TaskArithmetic
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"normalize": True}, {"lambda": 0.7}, {"normalize": True, "lambda": -2.0}])
def test_as_mergekit(shape, settings):
    base, models = family(shape, 3)
    assert_as_mergekit(TaskArithmetic(), models, base, weight=[0.3, -0.5, 1.0], **settings)


def test_an_analogy_is_not_normalised():
    base, models = family((20, 30), 2)
    result = assert_as_mergekit(TaskArithmetic(), models, base, weight=[1.0, -1.0], normalize=True)
    assert_near(result, base + models[0] - models[1])


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(-3, 3), min_size=1, max_size=4), scale=st.floats(-2, 2))
def test_the_formula(weights, scale):
    base, models = family((6, 7), len(weights))
    moved = sum(w * (x.double() - base.double()) for w, x in zip(weights, models, strict=True))
    assert_near(merged(TaskArithmetic(), models, base, weight=weights, **{"lambda": scale}), base + scale * moved)


def test_no_weight_gives_the_base():
    base, models = family((6, 7), 2)
    assert torch.equal(merged(TaskArithmetic(), models, base, weight=0.0), base)


def test_bfloat16_models_are_given_back_exactly():
    """The difference of two near bfloat16 numbers is exact in float32, so weight 1 leads to the model."""
    base, (model,) = family((50, 60), 1, drift=0.01)
    base, model = base.bfloat16(), model.bfloat16()
    assert torch.equal(merged(TaskArithmetic(), [model], base, weight=1.0).bfloat16(), model)
