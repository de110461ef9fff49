"""What holds for every method that thins out task vectors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.task_vectors import RowSums, matching_factor
from tests.merge.methods.thinning import ELECTED, FAMILY, THINNING, assert_close, family, ours, same_bits

EVERY = pytest.mark.parametrize("method", FAMILY, ids=lambda method: method.name)


def settings_of(method, density=0.5):
    return {"select_topk": density} if method.name == "sce" else {"density": density}


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 97), (1000,), (2, 20_000), (30, 1)])
def test_the_cut_into_blocks_changes_no_bit(method, shape, dtype):
    models, base = family(3, shape, dtype)
    if method in THINNING:
        same_bits(method, models, base, rescale=True, weight=[1.0, 0.3, 0.5], **settings_of(method))
    else:
        same_bits(method, models, base, **settings_of(method))


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_one_model_kept_whole_is_the_model(method, seed):
    (model,), base = family(1, (5, 7), seed=seed)
    assert_close(ours(method, [model], base, **settings_of(method, 1.0)), model)


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)))
def test_the_order_of_models_kept_whole_is_of_no_account(method, seed, order):
    models, base = family(3, (5, 7), seed=seed)
    weights = [0.5, 1.0, 0.25]
    given_ = settings_of(method, 1.0)
    straight = ours(method, models, base, **given_, **({"weight": weights} if method in THINNING else {}))
    turned = {"weight": [weights[i] for i in order]} if method in THINNING else {}
    assert_close(ours(method, [models[i] for i in order], base, **given_, **turned), straight)


@pytest.mark.parametrize("method", [*ELECTED, FAMILY[-1]], ids=lambda method: method.name)
def test_an_elected_element_points_where_the_sum_does(method):
    models, base = family(3, size=1.0)
    given_ = {"lambda": 1.0} if method in THINNING else {}
    change = ours(method, models, base, **given_) - base
    total = sum(model - base for model in models)
    assert (change * total >= 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_do_not_depend_on_blocks_or_threads(threads):
    values = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0)).abs()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (values, values.view(1, -1)):
            whole, parts = RowSums(), RowSums()
            whole.add(rows)
            for row in rows.split(1):
                parts.add(row)
            assert whole.total == parts.total
            assert whole.total == pytest.approx(float(values.double().sum()), rel=1e-7)
    finally:
        torch.set_num_threads(before)


def test_norms_of_nothing_are_not_matched():
    assert matching_factor(3.0, 2.0) == 1.5
    assert matching_factor(3.0, 0.0) == matching_factor(5e-8, 2.0) == 1.0
