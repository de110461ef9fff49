from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.methods.gram import gram, inner, length, row_products, row_sums
from merge.methods.on_tensors import blocks_of
from tests.merge.methods.harness import family, strangers


def matrix(inputs, base=None, size=2**18):
    return gram(lambda: blocks_of(inputs, base, 0, "", size))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9000), st.integers(1, 5)),
    count=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 9999)),
)
def test_the_same_matrix_for_any_cut(shape, count, sizes):
    inputs = strangers(shape, count)
    whole = matrix(inputs)
    flat = torch.stack(inputs).double().view(count, -1)
    torch.testing.assert_close(torch.tensor(whole, dtype=torch.float64), flat @ flat.T, rtol=1e-6, atol=1e-4)
    assert all(matrix(inputs, size=max(200, size)) == whole for size in sizes)


def test_with_a_base_it_is_that_of_the_task_vectors():
    base, models = family((30, 40), 2)
    found = matrix(models, base)
    vectors = torch.stack([model - base for model in models]).double().view(2, -1)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), vectors @ vectors.T, rtol=1e-6, atol=0)


def test_sums_of_rows_do_not_depend_on_neighbours_nor_on_threads():
    left, right = strangers((5, 100_000), 2)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(row_products(left, right))
            found.append(torch.cat([row_products(left[i : i + 1], right[i : i + 1]) for i in range(5)]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(sums, found[0]) for sums in found)


def test_sums_keep_their_digits():
    """A million ones beside a large number: lost in float32, kept in float64."""
    row = torch.ones(1, 1_000_001)
    row[0, 0] = 2.0**25
    assert row_sums(row).tolist() == [2.0**25 + 1_000_000]


def test_lengths_of_combinations_and_those_that_are_rounding():
    first, second = strangers((11, 13), 2)
    found = matrix([first, second])
    point = [0.3, -2.0]
    assert length(point, found) == pytest.approx(float((0.3 * first - 2 * second).double().norm()), rel=1e-6)
    assert inner(point, [1.0, 0.0], found) == pytest.approx(float(((0.3 * first - 2 * second) * first).sum()), rel=1e-5)
    assert length([3.0, -1.0], matrix([first, 3 * first])) == 0
    assert length([0.0, 0.0], found) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_numbers_without_an_angle(value):
    first, second = strangers((5, 7), 2)
    first[0, 0], second[0, 0] = value, -value
    with pytest.raises(MergeError, match="not finite, or whose square is beyond float32"):
        matrix([first, second])
