"""SCE against mergekit."""

from __future__ import annotations

import pytest
import torch

from merge.methods.sce import Sce, variance
from tests.merge.methods.thinning import assert_close, family, ours, same_bits, theirs


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [1e-4, 1.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_mergekit(share, size, count):
    models, base = family(count, size=size)
    models[0] += 0.3 * (models[0] - base)  # so that the coefficients differ
    result = same_bits(Sce, models, base, select_topk=share)
    assert_close(result, theirs(Sce, models, base, select_topk=share))


@pytest.mark.parametrize("shape", [(1,), (500,), (3, 4, 50)])
def test_as_mergekit_for_any_shape(shape):
    models, base = family(3, shape, size=1.0)
    assert_close(same_bits(Sce, models, base, select_topk=0.4), theirs(Sce, models, base, select_topk=0.4))


def test_the_share_is_of_the_elements_that_vary():
    base = torch.zeros(10)
    left, right = torch.ones(10), torch.ones(10)
    right[:4] = torch.tensor([2.0, 5.0, 3.0, 4.0])
    result = ours(Sce, [left, right], base, select_topk=0.5)
    assert torch.equal(result != 0, torch.tensor([0, 1, 0, 1] + [0] * 6, dtype=torch.bool))
    assert_close(result, theirs(Sce, [left, right], base, select_topk=0.5))


def test_variance():
    vectors = torch.randn(4, 3, 7, dtype=torch.float64).float()
    torch.testing.assert_close(variance(list(vectors.clone())), vectors.var(dim=0, unbiased=False))


def test_a_model_alone_and_equal_models():
    (model, *_), base = family()
    assert_close(ours(Sce, [model], base), model)
    assert_close(ours(Sce, [model, model], base), model)
    assert torch.equal(ours(Sce, [model, model], base, select_topk=0.5), base)
