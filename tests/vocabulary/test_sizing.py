"""The rule of `add: auto`, on curves whose knee is known."""

from __future__ import annotations

import pytest

from adapt.vocabulary.learning import Piece
from adapt.vocabulary.sizing import doublings, knee, sizes, tokens_after


def falling(learned: int, exponent: float) -> list[int]:
    """Tokens `10^8 (k / 500 + 1)^-exponent` with k pieces."""
    return [round(1e8 * (count / 500 + 1) ** -exponent) for count in range(learned + 1)]


def test_sizes_double():
    assert sizes() == [1000, 2000, 4000, 8000, 16000, 32000]


def test_tokens_after_each_piece():
    pieces = [Piece(10 + rank, 0, 1, "", 0, saved) for rank, saved in enumerate((5, 3, 0))]
    assert tokens_after(pieces, 20) == [20, 15, 12, 12]


def test_the_smallest_size_whose_doubling_is_not_worth_it():
    totals = [3 * 10**7 + count for count in falling(64_000, 1)]
    chosen = [knee(totals, worth) for worth in (0.03, 0.06, 0.1, 0.15)]
    assert chosen == [32_000, 16_000, 8_000, 4_000]
    for worth, size in zip((0.03, 0.06, 0.1, 0.15), chosen, strict=True):
        assert 1 - totals[2 * size] / totals[size] < worth
        assert all(1 - totals[2 * less] / totals[less] >= worth for less in sizes() if less < size)


@pytest.mark.parametrize(
    ("totals", "size"),
    [
        (falling(64_000, 0.9), 32_000),  # every doubling pays: the most
        (falling(700, 0.9), 700),  # the corpus gives no more
        ([1000] * 64_001, 1000),  # nothing pays: the least
        (falling(3_000, 0.9), 3_000),
    ],
)
def test_ends_of_the_rule(totals, size):
    assert knee(totals) == size


def test_a_short_run_stands_for_larger_sizes():
    totals = falling(3_000, 0.5)
    assert doublings(totals)[-1] == (3_000, 0.0)
    assert doublings(totals)[1] == (2_000, pytest.approx(1 - totals[3_000] / totals[2_000]))
