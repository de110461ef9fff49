"""Continued BPE: new merges learned on top of a tokenizer's own segmentation, each the one that saves most tokens."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

BORDER, _GONE = -1, -2


@dataclass(frozen=True)
class Piece:
    """A new piece: its id, the ids of the two parts that merge into it, how it is written, what it saved.

    `saved` is the number of tokens that it saved on the corpus when it was learned, `saved_held_out` the same on text
    that played no part in the choice.
    """

    id: int
    left: int
    right: int
    string: str
    saved: int
    saved_held_out: int


@dataclass
class Words:
    """Distinct words, each as the base tokenizer cuts it, with what is known of each.

    `ids` are the base's tokens of each word, `BORDER` for one that may not merge; `counts` and `held_out` (int64
    `[words]`) how often it occurs in the corpus and in held-out text, `protected` (bool `[words]`) whether no new
    piece may occur in it.
    """

    ids: Sequence[Sequence[int]]
    counts: np.ndarray
    held_out: np.ndarray
    protected: np.ndarray


@dataclass
class _Chain:
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
    def of(cls, words: Words) -> _Chain:
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
        self.symbol[taken] = _GONE
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


def _grouped(keys: np.ndarray, places: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The places of each key; keys and places in ascending order."""
    if not len(keys):
        return []
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return list(zip(keys[starts].tolist(), np.split(places, starts[1:]), strict=True))


@dataclass
class _Candidates:
    """Pairs by the most tokens that they can save.

    After its birth a pair only ever loses places: both its parts exist, and later merges consume them. So a count
    that was right once is an upper bound, and the best pair is found by counting again whatever comes out on top.
    """

    chain: _Chain
    min_frequency: int
    heap: list[tuple[int, int, int]] = field(default_factory=list)
    places: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def put(self, left: int, right: int, places: np.ndarray) -> None:
        count = int(self.chain.count[places].sum())
        if count >= self.min_frequency:
            self.places[left, right] = places
            heapq.heappush(self.heap, (-count, left, right))

    def best(self) -> tuple[int, int, int, np.ndarray] | None:
        """The pair that saves most, taken out: tokens saved, left, right, places. Ties go to the smaller ids."""
        while self.heap:
            bound, left, right = heapq.heappop(self.heap)
            standing = self.chain.standing(self.places.pop((left, right)), left, right)
            merged = self.chain.apart(standing) if left == right else standing
            count = int(self.chain.count[merged].sum())
            if count == -bound:
                return count, left, right, merged
            if count >= self.min_frequency:
                self.places[left, right] = standing
                heapq.heappush(self.heap, (-count, left, right))
        return None


def learn(
    words: Words,
    strings: dict[int, str],
    taken: Collection[str],
    next_id: int,
    add: int,
    min_frequency: int,
    fits: Callable[[str], bool],
) -> list[Piece]:
    """Learn up to `add` merges on the words, in the order in which they are to be appended.

    Continued BPE (Purason et al. 2025, arXiv 2512.03989): begin from the base tokenizer's segmentation, not from
    bytes, and merge the most frequent pair again and again. A pair's count is the number of tokens that its merge
    saves. Pairs whose string `fits` refuses, is `taken` already (an old symbol could set off old merges), or that
    stand in a protected word are passed over for good. `strings` maps base ids to pieces; ids count up from
    `next_id`. The first k pieces do not depend on `add`; ties go to the smaller ids, so runs agree. The time is that
    of the places merged, whatever the length of the words, so text without spaces is no slower.
    """
    chain = _Chain.of(words)
    candidates = _Candidates(chain, max(1, min_frequency))
    for left, right, places in chain.all_pairs():
        candidates.put(left, right, places)
    strings, taken, pieces = dict(strings), set(taken), []
    while len(pieces) < add and (found := candidates.best()) is not None:
        saved, left, right, places = found
        string = strings[left] + strings[right]
        if string in taken or not fits(string) or chain.protected[places].any():
            continue
        piece = Piece(next_id + len(pieces), left, right, string, saved, int(chain.held_out[places].sum()))
        strings[piece.id] = string
        taken.add(string)
        pieces.append(piece)
        chain.merge(places, piece.id)
        for pair in chain.pairs_beside(places, piece.id):
            candidates.put(*pair)
    return pieces
