from __future__ import annotations

import hashlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.random import _fill, _fill_there, uniform

COUNT = 2**20
KEYS = [(0, 0, "model.layers.0.mlp.up_proj.weight"), (0, 1, "model.layers.0.mlp.up_proj.weight"), (17, 0, "lm_head")]


def chi_square(counts: torch.Tensor) -> float:
    """Pearson's statistic against equal shares, in standard deviations from its mean (normal for many cells)."""
    expected = counts.sum() / len(counts)
    statistic = float(((counts.double() - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("first", [0, 12345, 2**31 - COUNT // 2])
def test_the_numbers_are_uniform(key, first):
    numbers = uniform(key, first, COUNT)
    assert numbers.dtype == torch.float32
    assert 0 <= float(numbers.min()) <= float(numbers.max()) < 1
    whole = (numbers.double() * 2**24).long()
    assert torch.equal(whole.double(), numbers.double() * 2**24), "24 bits each"
    for shift in (0, 8, 16):  # the low, middle and high byte
        assert abs(chi_square(torch.bincount(whole >> shift & 255, minlength=256))) < 5


@pytest.mark.parametrize("distance", [1, 2, 16, 64, 4096])
def test_neighbours_are_independent(distance):
    """Pairs at this distance (elements of a row, of a column) fill a square of cells evenly."""
    cells = (uniform(KEYS[0], 0, COUNT) * 32).long()
    pairs = cells[:-distance] * 32 + cells[distance:]
    assert abs(chi_square(torch.bincount(pairs, minlength=1024))) < 5


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ((0, 0, "a"), (1, 0, "a")),
        ((0, 0, "a"), (0, 1, "a")),
        ((0, 0, "a"), (0, 0, "b")),
        ((1, 0, "a"), (0, 1, "a")),
        ((0, 11, "a"), (0, 1, "1a")),
    ],
)
def test_other_keys_give_unrelated_numbers(key, other):
    cells = [(uniform(k, 0, COUNT) * 32).long() for k in (key, other)]
    assert abs(chi_square(torch.bincount(cells[0] * 32 + cells[1], minlength=1024))) < 5


def test_beyond_two_to_the_31_the_numbers_are_others():
    """The counter has 32 bits: each stretch of 2^31 has its own start and step."""
    first, second = uniform(KEYS[0], 0, 4096), uniform(KEYS[0], 2**31, 4096)
    assert (first == second).sum() < 10
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.08


@settings(max_examples=25, deadline=None)
@given(
    start=st.one_of(st.integers(0, 300_000), st.integers(2**31 - 100_000, 2**31), st.integers(2**33, 2**33 + 9)),
    lengths=st.lists(st.integers(0, 70_000), min_size=1, max_size=5),
)
def test_the_same_numbers_for_any_cut(start, lengths):
    whole = uniform(KEYS[0], start, sum(lengths))
    place = 0
    for length in lengths:
        assert torch.equal(uniform(KEYS[0], start + place, length), whole[place : place + length])
        place += length


def start_and_step(key: tuple) -> tuple[int, int]:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little") | 1


@settings(max_examples=25, deadline=None)
@given(place=st.integers(0, 2**34), seed=st.integers(0, 2**63), index=st.integers(0, 9), name=st.text(max_size=20))
def test_the_definition_in_whole_numbers(place, seed, index, name):
    epoch, counter = divmod(place, 2**31)
    start, step = start_and_step((seed, index, name, epoch))
    word = (start + step * counter) % 2**32
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        word = (word ^ word >> shift) * multiplier % 2**32
    assert float(uniform((seed, index, name), place, 1)) == (word >> 8) / 2**24


def test_places_whose_counters_are_neighbours_are_independent():
    """Some distance turns step * distance into a small number; only the mixing keeps those places apart."""
    for key in KEYS:
        step = start_and_step((*key, 0))[1]
        distance = min(range(1, 2**16), key=lambda d: min(step * d % 2**32, -step * d % 2**32))
        cells = (uniform(key, 0, COUNT) * 32).long()
        pairs = cells[:-distance] * 32 + cells[distance:]
        assert abs(chi_square(torch.bincount(pairs, minlength=1024))) < 5


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1).map(lambda half: 2 * half + 1), st.integers(1, 300))
def test_torch_on_another_device_draws_what_numpy_draws_here(start, step, count):
    here, there = torch.empty(count), torch.empty(count)
    _fill(here, start, step)
    _fill_there(there, start, step)
    assert torch.equal(here, there)
