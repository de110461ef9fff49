"""Continued BPE: new merges learned on top of a tokenizer's own segmentation, each the one that saves most tokens."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapt.vocabulary.chain import GONE, Chain, Words, character_of


@dataclass(frozen=True)
class Piece:
    """A new piece: its id, the ids of the two parts that merge into it, how it is written, what it saved.

    `saved` is the number of tokens that it saved on the corpus when it was learned, `saved_held_out` the same on text
    that played no part in the choice. A character that the base spells in byte pieces has no two parts (both are -1);
    `spelled` are the ids of its byte pieces.
    """

    id: int
    left: int
    right: int
    string: str
    saved: int
    saved_held_out: int
    spelled: tuple[int, ...] = ()

    @property
    def made_of(self) -> tuple[int, ...]:
        """The ids that it is made of: its two parts, or the byte pieces of its character."""
        return self.spelled or (self.left, self.right)

    @property
    def merges(self) -> int:
        """How often the corpus made it, each time saving all but one of the tokens that it is made of."""
        return self.saved // (len(self.made_of) - 1)


@dataclass
class _Candidates:
    """Pairs by the most tokens that they can save.

    After its birth a pair only ever loses places: both its parts exist, and later merges consume them. So a count
    that was right once is an upper bound, and the best pair is found by counting again whatever comes out on top.
    """

    chain: Chain
    min_frequency: int
    heap: list[tuple[int, int, int]] = field(default_factory=list)
    places: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, chain: Chain, min_frequency: int) -> _Candidates:
        candidates = cls(chain, min_frequency)
        for left, right, places in chain.all_pairs():
            candidates.put(left, right, places)
        for symbol, places in chain.characters():
            candidates.put_character(symbol, places)
        return candidates

    def put(self, left: int, right: int, places: np.ndarray) -> None:
        count = int(self.chain.count[places].sum())
        if count >= self.min_frequency:
            self.places[left, right] = places
            heapq.heappush(self.heap, (-count, left, right))

    def put_character(self, symbol: int, places: np.ndarray) -> None:
        saved = int(self.chain.count[places].sum()) * (len(character_of(symbol).encode("utf-8")) - 1)
        if saved >= self.min_frequency:
            self.places[symbol, symbol] = places
            heapq.heappush(self.heap, (-saved, symbol, symbol))

    def best(self) -> tuple[int, int, int, np.ndarray] | None:
        """The pair that saves most, taken out: tokens saved, left, right, places. Ties go to the smaller ids."""
        while self.heap:
            bound, left, right = heapq.heappop(self.heap)
            if left < GONE:
                return -bound, left, right, self.places.pop((left, right))
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
    bytes: Sequence[int] = (),
) -> list[Piece]:
    """Learn up to `add` merges on the words, in the order in which they are to be appended.

    Continued BPE (Purason et al. 2025, arXiv 2512.03989): begin from the base tokenizer's segmentation, not from
    bytes, and merge the most frequent pair again and again. A pair's count is the number of tokens that its merge
    saves. Pairs whose string `fits` refuses, is `taken` already (an old symbol could set off old merges), or that
    stand in a protected word are passed over for good. `strings` maps base ids to pieces; ids count up from
    `next_id`. The first k pieces do not depend on `add`; ties go to the smaller ids, so runs agree. The time is that
    of the places merged, whatever the length of the words, so text without spaces is no slower.

    With byte fallback, `bytes` are the ids of the 256 byte pieces, and characters without a piece compete with the
    pairs: such a character saves all of its bytes but one, and only once it is a piece can longer ones hold it.
    """
    chain = Chain.of(words)
    candidates = _Candidates.of(chain, max(1, min_frequency))
    strings, taken, pieces = dict(strings), set(taken), []
    while len(pieces) < add and (found := candidates.best()) is not None:
        saved, left, right, places = found
        string = character_of(left) if left < GONE else strings[left] + strings[right]
        if string in taken or not fits(string) or chain.protected[places].any():
            continue
        index, held_out = next_id + len(pieces), int(chain.held_out[places].sum())
        if left < GONE:
            spelled = tuple(bytes[byte] for byte in string.encode("utf-8"))
            piece = Piece(index, -1, -1, string, saved, held_out * (len(spelled) - 1), spelled)
            chain.symbol[places] = index
        else:
            piece = Piece(index, left, right, string, saved, held_out)
            chain.merge(places, index)
        strings[index] = string
        taken.add(string)
        pieces.append(piece)
        for pair in chain.pairs_beside(places, index):
            candidates.put(*pair)
    return pieces
