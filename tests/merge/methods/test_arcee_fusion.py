from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.arcee_fusion import ArceeFusion
from tests.merge.methods.harness import SHAPES, by_mergekit, family, merged


def scores_and_threshold(model: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The definition, in float64."""
    p, q = (tensor.double().softmax(-1) + 1e-8 for tensor in (model, base))
    scores = (model.double() - base.double()).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    order = scores.flatten().sort().values
    first, median, third = (order[part * (len(order) - 1) // 4] for part in (1, 2, 3))
    return scores, float(median + 1.5 * (third - first))


def assert_from_base_or_model(result, model, base) -> None:
    """Every element is the one that its score tells; either is right where rounding decides."""
    scores, threshold = scores_and_threshold(model, base)
    clear = (scores - threshold).abs() > 1e-4 * abs(threshold) + 1e-9
    expected = torch.where(scores >= threshold, base + (model - base), base)
    assert torch.equal(result[clear], expected[clear])
    other = torch.where(scores >= threshold, base, base + (model - base))
    assert ((result == expected) | (result == other)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_defined(shape):
    base, (model,) = family(shape, 1, drift=0.7)
    assert_from_base_or_model(merged(ArceeFusion(), [model], base), model, base)


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(2, 40), drift=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_as_defined_for_any_size(rows, columns, drift, seed):
    base, (model,) = family((rows, columns), 1, seed, drift)
    assert_from_base_or_model(merged(ArceeFusion(), [model], base), model, base)


@pytest.mark.parametrize("shape", [(160, 70), (3000,), (6, 5, 7)], ids=str)
def test_as_mergekit(shape):
    base, (model,) = family(shape, 1, drift=0.5)
    result, theirs = merged(ArceeFusion(), [model], base), by_mergekit("arcee_fusion", [model], base)
    assert (result != theirs).sum() <= 2
    assert 0.001 < (result != base).double().mean() < 0.4
    assert_from_base_or_model(theirs, model, base)


def test_rows_that_did_not_move_and_a_zero_threshold():
    """With three quarters of the scores 0 the threshold is 0, and every change is taken."""
    base, (model,) = family((16, 30), 1, drift=0.5)
    model[:14] = base[:14]
    assert torch.equal(merged(ArceeFusion(), [model], base), base + (model - base))
    assert torch.equal(merged(ArceeFusion(), [base.clone()], base), base)


def test_rows_wider_than_what_is_summed_at_once():
    base, (model,) = family((3, 40_000), 1, drift=0.5)
    assert_from_base_or_model(merged(ArceeFusion(), [model], base), model, base)
