from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.nearswap import NearSwap
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, family, merged


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.03, 5.0])
def test_as_mergekit(shape, t):
    base, models = family(shape, 1)
    assert_as_mergekit(NearSwap(), models, base, t=t)


@settings(max_examples=15, deadline=None)
@given(t=st.floats(0, 1), drift=st.floats(0, 1))
def test_no_element_moves_by_more_than_t_or_past_the_model(t, drift):
    base, (model,) = family((8, 9), 1, drift=drift)
    result = merged(NearSwap(), [model], base, t=t)
    assert ((result - base).abs() <= t + 1e-6).all()
    assert torch.equal(torch.minimum(base, model).minimum(result), torch.minimum(base, model))
    assert torch.equal(torch.maximum(base, model).maximum(result), torch.maximum(base, model))


def test_the_ends():
    base, (model,) = family((8, 9), 1)
    assert torch.equal(merged(NearSwap(), [model], base, t=0.0), base)
    assert torch.equal(merged(NearSwap(), [model], base, t=10.0), model)


def test_nan_is_not_hidden():
    base, (model,) = family((3, 3), 1)
    model[1, 1] = torch.nan
    assert merged(NearSwap(), [model], base, t=0.1).isnan().sum() == 1
