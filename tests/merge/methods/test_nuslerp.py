from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.methods.nuslerp import NuSlerp
from merge.methods.slerp import Slerp
from tests.merge.methods.harness import SHAPES, assert_as_mergekit, assert_near, family, merged, strangers

WHOLE = {}
ROWS = {"nuslerp_flatten": False}
COLUMNS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
MODES = pytest.mark.parametrize("mode", [WHOLE, ROWS, COLUMNS], ids=["whole", "rows", "columns"])


@MODES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("based", [True, False])
def test_as_mergekit(mode, shape, based):
    base, models = family(shape, 2, shared=0.5)
    assert_as_mergekit(NuSlerp(), models, base if based else None, weight=[0.3, 0.5], **mode)


@MODES
@settings(max_examples=12, deadline=None)
@given(weights=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)), seed=st.integers(0, 99), scale=st.floats(0.1, 9))
def test_only_the_ratio_of_weights_counts(mode, weights, seed, scale):
    models = strangers((8, 9), 2, seed)
    result = assert_as_mergekit(NuSlerp(), models, weight=list(weights), **mode)
    assert_near(merged(NuSlerp(), models, weight=[scale * w for w in weights], **mode), result)


@MODES
def test_weights_that_sum_to_nothing_stand_for_the_middle(mode):
    models = strangers((8, 9), 2)
    result = assert_as_mergekit(NuSlerp(), models, weight=[1.0, -1.0], **mode)
    assert_near(result, merged(NuSlerp(), models, weight=1.0, **mode))


@MODES
def test_the_ends(mode):
    base, models = family((8, 9), 2)
    for chosen in range(2):
        weights = [float(chosen == index) for index in range(2)]
        assert torch.equal(merged(NuSlerp(), models, weight=weights, **mode), models[chosen])
        assert_near(merged(NuSlerp(), models, base, weight=weights, **mode), models[chosen])


def test_the_whole_tensor_without_a_base_is_slerp():
    models = strangers((30, 20), 2)
    assert_near(merged(NuSlerp(), models, weight=[3.0, 1.0]), merged(Slerp(), models[1:], models[0], t=0.25))


def test_rows_are_columns_of_the_transpose():
    models = strangers((12, 21), 2)
    turned = [model.T.contiguous() for model in models]
    assert_near(merged(NuSlerp(), models, weight=1.0, **ROWS), merged(NuSlerp(), turned, weight=1.0, **COLUMNS).T)


@MODES
def test_zero_equal_collinear_and_opposed_vectors(mode):
    vector = strangers((8, 9), 1)[0]
    zero = torch.zeros_like(vector)
    assert_as_mergekit(NuSlerp(), [zero, vector], weight=1.0, **mode)
    assert_near(merged(NuSlerp(), [vector, vector], weight=[0.2, 0.7], **mode), vector)
    assert_near(merged(NuSlerp(), [vector, 3 * vector], weight=1.0, **mode), 2 * vector)
    assert_near(merged(NuSlerp(), [vector, -3 * vector], weight=1.0, **mode), -vector)
    assert not merged(NuSlerp(), [zero, zero], weight=1.0, **mode).any()


@pytest.mark.parametrize("mode", [ROWS, COLUMNS], ids=["rows", "columns"])
def test_a_zero_row_or_column_leaves_its_neighbours_alone(mode):
    models = strangers((8, 9), 2)
    models[0][3], models[1][:, 4] = 0, 0
    assert_as_mergekit(NuSlerp(), models, weight=[1.0, 2.0], **mode)
