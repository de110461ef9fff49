"""The reset of a part of a model to its base."""

from __future__ import annotations

import pytest
import torch

from merge.errors import MergeError
from merge.methods.half_reset import HalfReset
from tests.merge.methods.thinning import family, ours, same_bits

GRANULARITIES = pytest.mark.parametrize("granularity", ["matrix", "row", "element"])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


def test_a_tensor_is_the_base_or_the_model_and_half_of_them_are_the_base():
    (model,), base = family(1, (2, 3))
    results = [ours(HalfReset, [model], base, name=f"tensor {i}", ratio=0.3) for i in range(2000)]
    reset = sum(torch.equal(bits(result), bits(base)) for result in results)
    assert reset + sum(torch.equal(bits(result), bits(model)) for result in results) == 2000
    assert abs(reset / 2000 - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


@pytest.mark.parametrize(("granularity", "units"), [("row", 3000), ("element", 3000 * 40)])
def test_rows_and_elements(granularity, units):
    (model,), base = family(1, (3000, 40))
    result = same_bits(HalfReset, [model], base, granularity=granularity)
    reset, own = bits(result) == bits(base), bits(result) == bits(model)
    assert (reset | own).all()
    if granularity == "row":
        assert (reset.all(1) | own.all(1)).all()
    assert abs(reset.float().mean() - 0.5) < 4 * 0.5 / units**0.5


@GRANULARITIES
def test_signs_of_zero_and_huge_numbers_stay(granularity):
    values = torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-45] * 20)
    result = same_bits(HalfReset, [-values], values, granularity=granularity)
    assert ((bits(result) == bits(values)) | (bits(result) == bits(-values))).all()


@GRANULARITIES
def test_all_and_nothing(granularity):
    (model,), base = family(1)
    assert torch.equal(ours(HalfReset, [model], base, ratio=1.0, granularity=granularity), base)
    assert torch.equal(ours(HalfReset, [model], base, ratio=0.0, granularity=granularity), model)


@GRANULARITIES
def test_the_same_seed_resets_the_same_and_more_with_a_higher_ratio(granularity):
    (model,), base = family(1)
    for seed in range(20):
        given = {"seed": seed, "granularity": granularity}
        less = ours(HalfReset, [model], base, ratio=0.3, **given) == base
        assert torch.equal(less, ours(HalfReset, [model], base, ratio=0.3, **given) == base)
        assert not (less & (ours(HalfReset, [model], base, ratio=0.6, **given) != base)).any()


def test_an_unknown_granularity():
    (model,), base = family(1)
    with pytest.raises(MergeError, match=r"^half_reset: granularity is 'layer'; it is one of matrix, row, element$"):
        ours(HalfReset, [model], base, granularity="layer")
