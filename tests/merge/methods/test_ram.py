from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.ram import Ram
from merge.methods.ramplus_tl import RamPlus
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, family, merged

BOTH = pytest.mark.parametrize("method", [Ram(), RamPlus()], ids=lambda method: method.name)


def sparse_family(shape, count, seed=0, share=0.4):
    """Models that each changed some elements only."""
    base, models = family(shape, count, seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    return base, [torch.lerp(base, x, (torch.rand(shape, generator=generator) < share).float()) for x in models]


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_as_mergekit(method, shape, count):
    base, models = sparse_family(shape, count)
    assert_as_mergekit(method, models, base)
    assert_as_mergekit(method, models, base, epsilon=0.05)


@settings(max_examples=15, deadline=None)
@given(r=st.floats(-1, 2), alpha=st.floats(0, 5), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_rescaling_as_mergekit(r, alpha, share, seed):
    base, models = sparse_family((9, 14), 3, seed, share)
    assert_as_mergekit(RamPlus(), models, base, r=r, alpha=alpha)


@BOTH
def test_a_change_by_all_is_averaged_and_no_change_gives_the_base(method):
    base, (model,) = family((6, 7), 1)
    assert torch.equal(merged(method, [base.clone(), base.clone()], base), base)
    assert (merged(method, [model] * 4, base) - model).abs().max() < 1e-6


def test_one_element_changed_by_one_by_both_and_by_none():
    base = torch.zeros(1, 3)
    models = [torch.tensor([[1.0, 4.0, 0.0]]), torch.tensor([[0.0, -1.0, 1e-6]])]
    assert merged(Ram(), models, base).tolist() == [[1.0, 1.5, 0.0]]
    # the first shares 1 element and has 1 of its own: 1 + 0.5 * min(1 / 1, 0.8)
    assert merged(RamPlus(), models, base, r=0.5, alpha=0.8).tolist() == [[pytest.approx(1.4), 1.5, 0.0]]
