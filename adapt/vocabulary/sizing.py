"""`add: auto`: how many pieces are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.measures import token_counts

if TYPE_CHECKING:
    from adapt.vocabulary.expansion import Grown
    from adapt.vocabulary.learning import Piece

LEAST, MOST = 1_000, 32_000
"""The smallest and the largest number of pieces that is chosen."""
WORTH = 0.05
"""The share of tokens that twice as many pieces must save to be worth their rows."""

SMALL_SAVING = 0.15
"""The share of tokens saved below which new pieces are hardly worth their rows."""


def tokens_after(pieces: Sequence[Piece], tokens: int) -> list[int]:
    """Tokens of the held-out text with the first 0, 1, ..., n pieces; `tokens` is what it takes without any."""
    return list(accumulate((-piece.saved_held_out for piece in pieces), initial=tokens))


def sizes(least: int = LEAST, most: int = MOST) -> list[int]:
    """1000, 2000, 4000, ... up to 32,000."""
    found = [least]
    while 2 * found[-1] <= most:
        found.append(2 * found[-1])
    return found


def doublings(totals: Sequence[int], least: int = LEAST, most: int = MOST) -> list[tuple[int, float]]:
    """Each size with what twice as many pieces would save of the tokens that are left: `1 - t(2n) / t(n)`.

    `totals[k]` is the number of tokens with k pieces. Where fewer were learned than asked for, all of them stand for
    any larger number.
    """
    learned = len(totals) - 1
    found = []
    for size in sizes(least, most):
        here, there = totals[min(size, learned)], totals[min(2 * size, learned)]
        found.append((min(size, learned), 1 - there / max(1, here)))
        if size >= learned:
            break
    return found


def knee(totals: Sequence[int], worth: float = WORTH, least: int = LEAST, most: int = MOST) -> int:
    """The smallest of 1000, 2000, 4000, ... whose next doubling saves less than `worth` of the tokens.

    Tokens saved fall about evenly with each doubling, while the rows (and the time of the softmax) double: beyond this
    size a row buys little. The largest size where every doubling pays, all pieces where text runs out before.
    """
    found = doublings(totals, least, most)
    return next((size for size, saved in found if saved < worth), found[-1][0])


def chosen(grown: Grown, held_out: Sequence[str], worth: float = WORTH) -> dict[str, Any]:
    """The size by `knee`, from one learning run with more pieces than are chosen.

    `size`, `worth`, the `doublings` (`[size, share of the tokens that twice as many save]`) and the `reason` in words.
    """
    totals = tokens_after(grown.pieces, token_counts(grown.base, held_out).total())
    found, size = doublings(totals), knee(totals, worth)
    saved = dict(found)[size]
    if size == len(totals) - 1:
        reason = "the corpus has no more"
    elif saved < worth:
        reason = f"twice as many would save {saved:.1%} of the tokens, less than {worth:.1%}"
    else:
        reason = f"the most that is chosen; twice as many would still save {saved:.1%} of the tokens"
    return {"size": size, "worth": worth, "doublings": [list(pair) for pair in found], "reason": reason}
