"""The exact selection of the largest magnitudes against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from merge import selection
from merge.selection import NOTHING, Cut, cuts, histograms, keep_largest_


def kept_by_sorting(values: torch.Tensor, k: int) -> torch.Tensor:
    order = torch.sort(values.abs(), descending=True, stable=True).indices[:k]
    return torch.zeros(len(values), dtype=torch.bool).index_fill_(0, order, True)


def in_blocks(*sequences: torch.Tensor, size: int):
    return lambda: ([part.clone() for part in parts] for parts in zip(*(s.split(size) for s in sequences), strict=True))


def select(values: torch.Tensor, ranks, size: int) -> list[torch.Tensor]:
    blocks = in_blocks(values, size=size)
    found = cuts(blocks, histograms(blocks), [ranks])[0]
    marked = []
    for cut in found:
        parts = [part for (part,) in blocks()]
        for first, part in zip(range(0, len(values), size), parts, strict=True):
            keep_largest_(part, first, cut)
        marked.append(torch.cat(parts))
    return marked


def check(values: torch.Tensor, ranks, size: int) -> None:
    for k, result in zip(ranks, select(values, ranks, size), strict=True):
        expected = torch.where(kept_by_sorting(values, k), values, torch.zeros(()))
        assert torch.equal(result, expected), (k, size)


TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 1e-40, -1e-45, 3e38, 1.0000001])
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("elements", [TIED, ANY], ids=["tied", "any"])
def test_the_k_largest_are_those_of_a_stable_sort(data, elements):
    values = torch.from_numpy(data.draw(arrays.arrays(np.float32, st.integers(1, 60), elements=elements)))
    ranks = data.draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=3))
    check(values, ranks, data.draw(st.integers(1, 70)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_matrix_in_blocks_of_any_size(dtype):
    torch.manual_seed(0)
    base = (torch.randn(40_000) * 0.02).to(dtype)
    values = (base.float() + torch.randn(40_000) * 0.001).to(dtype).float() - base.float()
    for size in (997, 2**14, 10**6):
        check(values, (1, 400, 20_000, 39_999), size)


@pytest.mark.parametrize("value", [0.0, 0.25, -1e-42])
def test_of_equal_magnitudes_the_first_are_kept(value):
    check(torch.full((1000,), value), (0, 1, 333, 1000), 77)


def test_more_tied_elements_than_are_held_take_a_third_pass(monkeypatch):
    monkeypatch.setattr(selection, "CANDIDATES", 50)
    torch.manual_seed(1)
    values = torch.randint(-3, 4, (2000,)).float()
    check(values, (1, 100, 700, 1500, 1999), 64)
    check(torch.randn(3000), (1500,), 100)


def test_several_sequences_are_selected_in_one_pass_each():
    torch.manual_seed(2)
    first, second = torch.randn(500), torch.randn(500).round()
    passes = 0

    def blocks():
        nonlocal passes
        passes += 1
        return in_blocks(first, second, size=60)()

    found = cuts(blocks, histograms(blocks), [(100,), (250, 10)])
    assert passes == 2
    for values, own, ranks in ((first, found[0], (100,)), (second, found[1], (250, 10))):
        for cut, k in zip(own, ranks, strict=True):
            assert torch.equal(keep_largest_(values.clone(), 0, cut) != 0, kept_by_sorting(values, k))


def test_cuts_that_need_no_look_take_no_pass():
    blocks = in_blocks(torch.randn(10), size=3)
    counted = histograms(blocks)

    def never():
        raise AssertionError("a pass that nothing asked for")

    assert cuts(never, counted, [(0, 10)]) == [(NOTHING, Cut(0, 10))]


def test_counts_are_exact_beyond_what_float32_can_count():
    ones = torch.ones(2**20)
    blocks = lambda: iter([[ones]] * 17)  # noqa: E731
    (histogram,) = histograms(blocks)
    assert histogram.size == 17 * 2**20
    assert cuts(blocks, [histogram], [(2**24 + 1,)])[0][0].end == 2**24 + 1


def test_zeros_are_told_from_the_smallest_denormal():
    (histogram,) = histograms(in_blocks(torch.tensor([0.0, -0.0, 1e-45, -1e-45, 2.0]), size=2))
    assert (histogram.size, histogram.nonzero) == (5, 3)
