"""The words of a corpus as one linked list of symbols, in which pairs of neighbours are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BORDER, GONE = -1, -2


def symbol_of(character: str) -> int:
    """The symbol of a character that has no piece: below all others, and nothing merges with it."""
    return GONE - 1 - ord(character)


def character_of(symbol: int) -> str:
    """The character of such a symbol."""
    return chr(GONE - 1 - symbol)


@dataclass
class Words:
    """Distinct words, each as the base tokenizer cuts it, with what is known of each.

    `ids` are the base's tokens of each word, `BORDER` for one that may not merge, `symbol_of(character)` for the byte
    pieces of a character that has no piece; `counts` and `held_out` (int64
    `[words]`) how often it occurs in the corpus and in held-out text, `protected` (bool `[words]`) whether no new
    piece may occur in it.
    """

    ids: Sequence[Sequence[int]]
    counts: np.ndarray
    held_out: np.ndarray
    protected: np.ndarray


@dataclass
class Chain:
    """All words behind each other as one linked list of symbols; a border stands between two words.

    `symbol [n]` holds a token's id at the place where the token begins, `after [n]` and `before [n]` the places of
    its neighbours. Merging writes the new id at the left part's place and takes the right part's place out.
    """

    symbol: np.ndarray
    after: np.ndarray
    before: np.ndarray
    count: np.ndarray
    held_out: np.ndarray
    protected: np.ndarray

    @classmethod
    def of(cls, words: Words) -> Chain:
        """All words behind each other, with a border before, between and behind them."""
        lengths = np.fromiter((len(ids) + 1 for ids in words.ids), dtype=np.int64, count=len(words.ids))
        size = int(lengths.sum()) + 1  # one border before the first word as well
        symbol = np.full(size, BORDER, dtype=np.int32)
        flat = (token for ids in words.ids for token in (*ids, BORDER))
        symbol[1:] = np.fromiter(flat, dtype=np.int32, count=size - 1)
        places = np.arange(size, dtype=np.int32)
        spread = [np.concatenate(([0], np.repeat(row, lengths))) for row in (words.counts, words.held_out)]
        protected = np.concatenate(([False], np.repeat(words.protected, lengths)))
        return cls(symbol, places + 1, places - 1, *spread, protected)

    def standing(self, places: np.ndarray, left: int, right: int) -> np.ndarray:
        """Those places at which the pair still stands."""
        places = places[self.symbol[places] == left]
        return places[self.symbol[self.after[places]] == right]

    def apart(self, places: np.ndarray) -> np.ndarray:
        """Every second place of each unbroken run of one symbol: the merges that BPE, from the left, really makes."""
        follows = np.zeros(len(places), dtype=bool)
        follows[1:] = self.after[places[:-1]] == places[1:]
        index = np.arange(len(places))
        start = np.maximum.accumulate(np.where(follows, 0, index))
        return places[(index - start) % 2 == 0]

    def merge(self, places: np.ndarray, new: int) -> None:
        """Write the new symbol at each place and take out the part that followed."""
        taken = self.after[places]
        following = self.after[taken]
        self.symbol[places] = new
        self.symbol[taken] = GONE
        self.after[places] = following
        self.before[following] = places

    def pairs_beside(self, places: np.ndarray, new: int) -> list[tuple[int, int, np.ndarray]]:
        """The pairs that a new symbol makes with its neighbours: left, right, places in ascending order."""
        before, after = self.before[places], self.symbol[self.after[places]]
        neighbour = self.symbol[before]
        left_of = (neighbour >= 0) & (neighbour != new)  # a pair of two new ones is found from its left one
        pairs = [(other, new, group) for other, group in _grouped(neighbour[left_of], before[left_of])]
        right_of = after >= 0
        return pairs + [(new, other, group) for other, group in _grouped(after[right_of], places[right_of])]

    def all_pairs(self) -> list[tuple[int, int, np.ndarray]]:
        """All pairs of neighbours at the start, before anything is merged."""
        places = np.flatnonzero((self.symbol[:-1] >= 0) & (self.symbol[1:] >= 0))
        width = int(self.symbol.max()) + 1
        keys = self.symbol[places].astype(np.int64) * width + self.symbol[places + 1]
        return [(*divmod(key, width), group) for key, group in _grouped(keys, places.astype(np.int32))]

    def characters(self) -> list[tuple[int, np.ndarray]]:
        """The characters that have no piece, as symbols, and their places."""
        places = np.flatnonzero(self.symbol < GONE)
        return _grouped(self.symbol[places], places.astype(np.int32))


def _grouped(keys: np.ndarray, places: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The places of each key; keys and places in ascending order."""
    if not len(keys):
        return []
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return list(zip(keys[starts].tolist(), np.split(places, starts[1:]), strict=True))
