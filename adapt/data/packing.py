"""Documents into sequences of at most L tokens, without losing, doubling or mixing a token.

A packed source is three small arrays of indices over the tokens on disk; no token is copied. TRL's `pack_dataset` does
the same to Arrow tables, thousand rows at a time: it copies all tokens, and best fit sees only one batch of documents
at once. Here best fit sees all lengths, and documents of one length are placed together, so that a million of them
take a second.

    L = 6, documents AAAAAAAA BBBBB CCC          best_fit                concatenate
                                                 AAAAAA                  AAAAAA
                                                 BBBBB                   AA BBBB
                                                 AA CCC                  B CCC
    Position ids begin anew in every piece:      0 1 0 1 2               0 0 1 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from adapt.errors import AdaptError

Strategy = Literal["best_fit", "concatenate"]


@dataclass(frozen=True)
class Packing:
    """Sequence `s` is the pieces `first[s]:first[s + 1]`; piece `p` is `tokens[starts[p]:starts[p] + lengths[p]]`."""

    starts: np.ndarray
    lengths: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each sequence, `[sequences]`."""
        ends = np.concatenate(([0], np.cumsum(self.lengths)))
        return ends[self.first[1:]] - ends[self.first[:-1]]

    def pieces(self, sequence: int) -> list[tuple[int, int]]:
        """Start and length of each piece of a sequence."""
        part = slice(self.first[sequence], self.first[sequence + 1])
        return list(zip(self.starts[part].tolist(), self.lengths[part].tolist(), strict=True))


def pack(
    starts: np.ndarray, lengths: np.ndarray, limit: int, strategy: Strategy, order: np.ndarray | None = None
) -> Packing:
    """Pack the documents `tokens[starts:starts + lengths]`, both `[documents]`, into sequences of `limit` tokens.

    `best_fit` cuts what is longer than `limit` into pieces of `limit`, then places each piece, longest first, where the
    least room is left (best-fit decreasing, Ding et al. 2024, arXiv 2404.10830). `concatenate` puts one document after
    the other in `order` and cuts every `limit` tokens. Checks that every token is in exactly one piece.
    """
    order = np.arange(len(lengths)) if order is None else order
    starts, lengths = starts[order].astype(np.int64), lengths[order].astype(np.int64)
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if strategy == "best_fit":
        pieces = cut(starts, lengths, limit, np.zeros_like(starts))
        packing = _grouped(*pieces, best_fit_decreasing(pieces[1], limit))
    else:
        offsets = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64) if len(lengths) else starts
        pieces = cut(starts, lengths, limit, offsets % limit)
        packing = _grouped(*pieces, (np.cumsum(pieces[1]) - 1) // limit)
    check_conservation(packing, starts, lengths, limit)
    return packing


def cut(starts: np.ndarray, lengths: np.ndarray, limit: int, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents that begin `offsets` tokens into a sequence wherever a sequence of `limit` tokens is full.

    Returns starts and lengths of the pieces, in order. With offsets 0 only documents longer than `limit` are cut.
    """
    counts = -(-(offsets + lengths) // limit)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.maximum(number * limit - offsets[document], 0)
    end = np.minimum((number + 1) * limit - offsets[document], lengths[document])
    return starts[document] + begin, end - begin


def best_fit_decreasing(lengths: np.ndarray, limit: int) -> np.ndarray:
    """The bin of each item, `[items]`: longest items first, each into the bin with the least sufficient room.

    Items of one length go together: a bin with room s takes s // length of them one after the other, because what is
    left of it is again the least sufficient room.
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    rooms, opened = _Rooms(), 0
    order = np.argsort(-lengths, kind="stable")
    borders = np.flatnonzero(np.diff(lengths[order])) + 1
    for items in np.split(order, borders) if len(order) else ():
        length = int(lengths[items[0]])
        while len(items):
            room, available = rooms.take(length)
            if not room:
                room, available = limit, opened + np.arange(-(-len(items) // (limit // length)))
                opened += len(available)
            each = room // length
            used = min(len(available), -(-len(items) // each))
            placed, items = items[: used * each], items[used * each :]
            bins[placed] = np.repeat(available[:used], each)[: len(placed)]
            in_last = len(placed) - (used - 1) * each
            rooms.put(room - each * length, available[: used - 1])
            rooms.put(room - in_last * length, available[used - 1 : used])
            rooms.put(room, available[used:])
    return bins


class _Rooms:
    """Bins by the room left in them. The rooms that occur are the bits of one integer, lowest bit first."""

    def __init__(self) -> None:
        self._bins: dict[int, list[np.ndarray]] = {}
        self._occurring = 0

    def put(self, room: int, bins: np.ndarray) -> None:
        """Add bins that have so much room; full ones are forgotten."""
        if room and len(bins):
            self._bins.setdefault(room, []).append(bins)
            self._occurring |= 1 << room

    def take(self, length: int) -> tuple[int, np.ndarray]:
        """Remove all bins of the least room that is at least `length`; room 0 where there is none."""
        sufficient = self._occurring >> length
        if not sufficient:
            return 0, np.zeros(0, dtype=np.int64)
        room = length + (sufficient & -sufficient).bit_length() - 1
        self._occurring ^= 1 << room
        return room, np.concatenate(self._bins.pop(room))


def _grouped(starts: np.ndarray, lengths: np.ndarray, sequence: np.ndarray) -> Packing:
    """Pieces sorted by sequence, within it as they came."""
    order = np.argsort(sequence, kind="stable")
    first = np.concatenate(([0], np.cumsum(np.bincount(sequence)))) if len(sequence) else np.zeros(1, dtype=np.int64)
    return Packing(starts[order], lengths[order], first.astype(np.int64))


def check_conservation(packing: Packing, starts: np.ndarray, lengths: np.ndarray, limit: int) -> None:
    """Every token of the documents is in exactly one piece, no piece crosses a document, no sequence is too long.

    Raises AdaptError otherwise: tokens would be lost, doubled or mixed without anybody seeing it.
    """
    order = np.argsort(packing.starts, kind="stable")
    begins, ends = packing.starts[order], packing.starts[order] + packing.lengths[order]
    rank = np.argsort(starts, kind="stable")
    first, last = starts[rank], starts[rank] + lengths[rank]
    document = np.searchsorted(first, begins, side="right") - 1
    opens = np.isin(begins, first)
    whole = (
        packing.lengths.sum() == lengths.sum()
        and (packing.lengths > 0).all()
        and opens[:1].all()
        and (np.diff(begins) > 0).all()
        and (ends <= last[document]).all()
        and (begins[1:][~opens[1:]] == ends[:-1][~opens[1:]]).all()
        and (not len(packing) or packing.sizes.max() <= limit)
    )
    if not whole:
        raise AdaptError(
            f"packing lost or doubled tokens: {int(lengths.sum()):,} in, {int(packing.lengths.sum()):,} out; "
            "this is an error of adapt, please report it with the recipe"
        )
