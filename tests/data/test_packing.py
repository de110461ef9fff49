"""Packing keeps every token exactly once, never mixes documents in a piece, and cuts no more than it must."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.data.packing import Packing, best_fit_decreasing, check_conservation, pack
from adapt.errors import AdaptError

LENGTHS = st.lists(st.integers(0, 40), max_size=60)
LIMIT = st.integers(1, 16)


def starts_of(lengths):
    return np.concatenate(([0], np.cumsum(lengths)))[:-1].astype(np.int64)


def packed(lengths, limit, strategy, order=None) -> Packing:
    lengths = np.array(lengths, dtype=np.int64)
    return pack(starts_of(lengths), lengths, limit, strategy, order)


@settings(deadline=None, max_examples=150)
@given(LENGTHS, LIMIT, st.sampled_from(["best_fit", "concatenate"]), st.randoms())
def test_every_token_is_in_exactly_one_piece_of_one_document(lengths, limit, strategy, random):
    order = np.array(random.sample(range(len(lengths)), len(lengths)), dtype=np.int64)
    packing = packed(lengths, limit, strategy, order)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    seen = []
    for sequence in range(len(packing)):
        pieces = packing.pieces(sequence)
        assert 0 < sum(length for _, length in pieces) <= limit
        for start, length in pieces:
            assert len(set(document_of[start : start + length])) == 1
            seen += range(start, start + length)
    assert sorted(seen) == list(range(sum(lengths)))


@settings(deadline=None, max_examples=100)
@given(LENGTHS, LIMIT)
def test_best_fit_cuts_only_what_is_longer_than_a_sequence(lengths, limit):
    packing = packed(lengths, limit, "best_fit")
    assert len(packing.lengths) == sum(-(-length // limit) for length in lengths)


@settings(deadline=None, max_examples=100)
@given(LENGTHS, LIMIT)
def test_concatenate_fills_every_sequence_but_the_last(lengths, limit):
    packing = packed(lengths, limit, "concatenate")
    assert len(packing) == -(-sum(lengths) // limit)
    assert (packing.sizes[:-1] == limit).all()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 16))
def test_best_fit_is_the_textbook_algorithm(lengths, limit):
    """One item at a time, longest first, into the fullest bin that still has room for it."""
    items = [min(length, limit) for length in lengths]
    bins: list[int] = []
    for item in sorted(items, reverse=True):
        fitting = [index for index, used in enumerate(bins) if used + item <= limit]
        if fitting:
            bins[max(fitting, key=lambda index: bins[index])] += item
        else:
            bins.append(item)
    placed = best_fit_decreasing(np.array(items), limit)
    assert sorted(np.bincount(placed, weights=items).astype(int).tolist()) == sorted(bins)


def test_best_fit_needs_as_many_sequences_as_trl():
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    lengths = np.random.default_rng(0).integers(1, 90, 300)
    rows = Dataset.from_dict({"input_ids": [list(range(length)) for length in lengths.tolist()]})
    theirs = pack_dataset(rows, 64, "bfd_split")
    ours = packed(lengths, 64, "best_fit")
    assert len(ours) == len(theirs)
    assert sorted(ours.sizes.tolist()) == sorted(len(row) for row in theirs["input_ids"])


def test_the_example_of_the_docstring():
    assert [packed([8, 5, 3], 6, "best_fit").pieces(sequence) for sequence in range(3)] == [
        [(0, 6)],
        [(8, 5)],
        [(6, 2), (13, 3)],
    ]
    assert [packed([8, 5, 3], 6, "concatenate").pieces(sequence) for sequence in range(3)] == [
        [(0, 6)],
        [(6, 2), (8, 4)],
        [(12, 1), (13, 3)],
    ]


def test_realistic_lengths_leave_no_room_and_are_packed_at_once():
    lengths = np.minimum(np.random.default_rng(1).lognormal(5, 1, 200_000).astype(np.int64) + 1, 50_000)
    started = time.perf_counter()
    packing = packed(lengths, 2048, "best_fit")
    assert packing.lengths.sum() / (len(packing) * 2048) > 0.99
    assert time.perf_counter() - started < 30  # not a measurement: an algorithm that looks at every bin takes hours


BROKEN = {
    "lost": ([0, 4], [4, 3], [0, 1, 2]),
    "doubled": ([0, 0, 4], [4, 4, 4], [0, 1, 2, 3]),
    "swapped for another": ([0, 0], [4, 4], [0, 1, 2]),
    "across documents": ([0], [8], [0, 1]),
    "too long": ([0, 4], [4, 4], [0, 2]),
    "gap": ([0, 5], [4, 3], [0, 1, 2]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_packing_is_noticed(case):
    starts, lengths, first = map(np.array, BROKEN[case])
    documents = np.array([0, 4]), np.array([4, 4])
    limit = 4 if case == "too long" else 8
    with pytest.raises(AdaptError, match="packing lost or doubled tokens"):
        check_conservation(Packing(starts, lengths, first), *documents, limit)
