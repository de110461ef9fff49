"""Whose turn it is: sequences of several sources in exact shares of tokens, at every point of a run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from adapt.errors import AdaptError

_PRECISION = 10**9
_MOST_ROWS = 10**8
"""A run's rows are laid out in memory before it starts; these are a hundred billion tokens in rows of 1,024."""


@dataclass(frozen=True)
class Schedule:
    """Row `i` of the stream is sequence `sequence[i]` of source `source[i]`; rows 0 to `i` have `tokens[i]` tokens."""

    source: np.ndarray
    sequence: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def tokens_of(self, source: int) -> int:
        """Tokens of the rows of one source."""
        sizes = np.diff(self.tokens, prepend=0)
        return int(sizes[self.source == source].sum())


def weights_of(shares: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of the shares (to nine digits)."""
    smallest = Fraction(1, _PRECISION)
    parts = [max(smallest, Fraction(share).limit_denominator(_PRECISION)) for share in shares]
    unit = lcm(*(part.denominator for part in parts))
    return [int(part * unit) for part in parts]


def mixed(
    sizes: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    *,
    seed: int,
    tokens: int | None,
    epochs: float | None,
    multiple: int,
) -> Schedule:
    """The rows of sources with these `sizes [sequences]`, each source in an order of its own in every epoch.

    Until `tokens` are reached, or until the source that its share exhausts first has been read `epochs` times
    (default: once). Raises AdaptError where these would be too many rows.
    """
    total = sum(shares.values())
    once = min(int(values.sum()) * total / shares[name] for name, values in sizes.items())
    marks = [zlib.crc32(name.encode()) for name in sizes]
    lengths = [len(values) for values in sizes.values()]
    return interleave(
        list(sizes.values()),
        [shares[name] for name in sizes],
        tokens if tokens is not None else max(1, round((epochs or 1.0) * once)),
        lambda source, epoch: permutation(lengths[source], seed, marks[source], epoch),
        multiple,
    )


def interleave(
    sizes: Sequence[np.ndarray],
    shares: Sequence[float],
    budget: int,
    order: Callable[[int, int], np.ndarray],
    multiple: int = 1,
) -> Schedule:
    """Rows until `budget` tokens are reached, and on to a whole multiple of `multiple` rows.

    `sizes[s]` are the tokens of each sequence of source s, `[sequences]`; `order(s, epoch)` is the permutation in which
    the source is read in an epoch. With share w, tokens x of a source and T of all so far, the source may be next
    if it is not ahead (x <= w T; one always is, because the x sum to T), and of these the one is next whose sequence
    would in exact shares be finished first, at (x + c) / w for its size c. This is earliest-deadline-first without
    preemption at full load: no sequence ends later than one sequence after its deadline, so that after every row

        |x - w T| <= tokens of the longest sequence        (cf. Tijdeman 1980, the chairman assignment problem).

    All in whole numbers: the result does not depend on rounding. Shares are all above 0.
    Raises AdaptError where these would be more than 100,000,000 rows.
    """
    _check_rows(max(budget // max(int(values.max()) for values in sizes), multiple), budget)
    weights = weights_of(shares)
    total, unit = sum(weights), lcm(*weights)
    steps = [unit // weight for weight in weights]
    readers = [_Reader(values, source, order) for source, values in enumerate(sizes)]
    sources: list[int] = []
    sequences: list[int] = []
    tokens: list[int] = []
    done = 0
    while done < budget or len(sources) % multiple:
        chosen = min(
            (reader for reader in readers if reader.tokens * total <= weights[reader.source] * done),
            key=lambda reader: ((reader.tokens + reader.size) * steps[reader.source], reader.source),
        )
        sources.append(chosen.source)
        sequences.append(chosen.current)
        done += chosen.advance()
        tokens.append(done)
    return Schedule(np.array(sources, dtype=np.int32), np.array(sequences, dtype=np.int64), np.array(tokens, np.int64))


def _check_rows(rows: int, budget: int) -> None:
    if rows > _MOST_ROWS:
        error = AdaptError(
            f"{budget:,} tokens are {rows:,} sequences or more, and a run has at most {_MOST_ROWS:,}; "
            "lower tokens, epochs or batch_size"
        )
        error.exit_code = 2
        raise error


class _Reader:
    """One source, read again and again, in a new order in every epoch."""

    def __init__(self, sizes: np.ndarray, source: int, order: Callable[[int, int], np.ndarray]) -> None:
        self.source, self.tokens = source, 0
        self._sizes, self._order = sizes.tolist(), order
        self._epoch, self._place = 0, 0
        self._row = order(source, 0).tolist()
        self._look()

    def _look(self) -> None:
        self.current = self._row[self._place]
        self.size = self._sizes[self.current]

    def advance(self) -> int:
        """Go to the next sequence; returns the tokens of the one that was read."""
        size = self.size
        self.tokens += size
        self._place += 1
        if self._place == len(self._row):
            self._place, self._epoch = 0, self._epoch + 1
            self._row = self._order(self.source, self._epoch).tolist()
        self._look()
        return size


def permutation(length: int, *seed: int) -> np.ndarray:
    """A permutation of `range(length)` that depends on the seed only, in every version of numpy.

    Sorts the raw output of PCG64, which numpy guarantees; of `Generator.permutation` it does not.
    """
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(length)
    return np.argsort(raw, kind="stable")
