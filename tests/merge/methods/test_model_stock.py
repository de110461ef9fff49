from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.model_stock import ModelStock
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged

MODES = pytest.mark.parametrize("filter_wise", [False, True], ids=["whole", "rows"])


@MODES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 4])
def test_as_mergekit(shape, count, filter_wise):
    base, models = family(shape, count, drift=0.5)
    models = [model + (model - base).abs() + 0.1 for model in models]  # all task vectors lie on one side
    assert_as_mergekit(ModelStock(), models, base, filter_wise=filter_wise)


@MODES
@settings(max_examples=12, deadline=None)
@given(count=st.integers(2, 5), shared=st.floats(0.2, 1.0), drift=st.floats(0.01, 2), seed=st.integers(0, 99))
def test_between_the_base_and_the_mean_at_the_papers_ratio(filter_wise, count, shared, drift, seed):
    base, models = family((7, 40), count, seed, drift, shared)
    vectors = torch.stack([(model - base).double() for model in models])
    flat = vectors if filter_wise else vectors.view(count, 1, -1)
    units = flat / flat.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("irc,jrc->rij", units, units)
    mean = ((cosines.sum((1, 2)) - count) / (count * (count - 1))).clamp(min=0)
    t = count * mean / (1 + (count - 1) * mean)
    assert ((t >= 0) & (t <= 1 + 1e-9)).all()
    expected = base + t.unsqueeze(1) * vectors.mean(0)
    assert_near(merged(ModelStock(), models, base, filter_wise=filter_wise).double(), expected, 2e-6)


@MODES
def test_equal_models_are_kept_and_opposed_or_orthogonal_ones_give_the_base(filter_wise):
    base, (model,) = family((6, 8), 1)
    assert_near(merged(ModelStock(), [model, model], base, filter_wise=filter_wise), model)
    opposed = merged(ModelStock(), [model, 2 * base - model], base, filter_wise=filter_wise)
    assert_near(opposed, base)
    left, right = base.clone(), base.clone()
    left[:, 0] += 1
    right[:, 1] += 1
    assert torch.equal(merged(ModelStock(), [left, right], base, filter_wise=filter_wise), base)


@MODES
def test_models_that_disagree_are_not_left_behind(filter_wise):
    """Negative cosines: mergekit's t is below 0 and the result on the far side of the base; ours is the base."""
    base, (model,) = family((6, 8), 1)
    opposite = base - 0.5 * (model - base)
    assert_near(merged(ModelStock(), [model, opposite], base, filter_wise=filter_wise), base)


@MODES
def test_models_that_did_not_move(filter_wise):
    base, models = family((6, 8), 2)
    models[0][2], models[1][2] = base[2], base[2]
    assert_as_mergekit(ModelStock(), [base.clone(), models[1]], base, filter_wise=filter_wise)
    rows = merged(ModelStock(), models, base, filter_wise=True)
    assert torch.equal(rows[2], base[2])
