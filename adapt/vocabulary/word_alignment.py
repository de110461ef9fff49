"""Which word translates which, learned from aligned lines: IBM model 1 with a preference for the diagonal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LONGEST = 100
"""Words above which a pair of lines is left out: it says little and costs the product of its lengths."""
_TENSION = 4.0
_NULL = 0.08
_WORDS = re.compile(r"\w+(?:['’ʼ-]\w+)*|[^\w\s]")


def words_of(line: str) -> list[str]:
    """A line's words and marks; scripts without spaces must come with spaces between the words."""
    return _WORDS.findall(line)


@dataclass(frozen=True)
class Side:
    """One language of a parallel corpus, flat: the words, each word's number `[n]` from 1, the lengths of lines."""

    words: Sequence[str]
    numbers: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each line begins."""
        return np.cumsum(self.lengths) - self.lengths

    @classmethod
    def of(cls, lines: Iterable[Sequence[str]]) -> Side:
        """From the words of each line."""
        known: dict[str, int] = {}
        numbers = [[known.setdefault(word, len(known) + 1) for word in line] for line in lines]
        flat = np.fromiter((number for line in numbers for number in line), np.int64)
        return cls(list(known), flat, np.array([len(line) for line in numbers], np.int64))


def aligned(source: Side, target: Side, iterations: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of words that translate each other: numbers in source and target, and how often they are linked.

    A link counts if it is the best one seen from both sides (intersection of both directions, Och and Ney 2003).
    """
    forward, backward = best(source, target, iterations), best(target, source, iterations)
    places = np.flatnonzero(forward >= 0)
    places = places[backward[forward[places]] == places]
    width = len(target.words) + 1
    pairs = source.numbers[forward[places]] * width + target.numbers[places]
    found, counts = np.unique(pairs, return_counts=True)
    return found // width, found % width, counts


def best(source: Side, target: Side, iterations: int) -> np.ndarray:
    """For each target word its likeliest source word's place, -1 for none: `[n]`.

    `p(t_j from s_i) ~ delta(i, j) theta(t_j | s_i)`, theta by EM (Brown et al. 1993); `delta` falls as
    `exp(-4 |i/m - j/n|)` and leaves 0.08 for no word (Dyer et al., NAACL 2013, fast_align, its tension fixed).
    """
    owner, place, prior = _cells(source, target)
    words = np.where(place < 0, 0, source.numbers[place]) if len(source.numbers) else np.zeros_like(place)
    width = len(target.words) + 1
    keys, cell = np.unique(words * width + target.numbers[owner], return_inverse=True)
    from_word = keys // width
    theta = np.ones(len(keys))
    for _ in range(iterations):
        mass = theta[cell] * prior
        mass /= np.bincount(owner, mass)[owner]
        counts = np.bincount(cell, mass, minlength=len(keys))
        theta = counts / np.bincount(from_word, counts)[from_word]
    mass = theta[cell] * prior
    return place[_first_largest(mass, owner)]


def _cells(source: Side, target: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of places that may be linked, grouped by target place: its owner there, source place, prior."""
    line = np.repeat(np.arange(len(target.lengths)), target.lengths)
    column = np.arange(len(line)) - target.starts[line]
    choices = source.lengths[line] + 1
    owner = np.repeat(np.arange(len(line)), choices)
    inner = np.arange(len(owner)) - np.repeat(np.cumsum(choices) - choices, choices) - 1
    m, n = source.lengths[line][owner], target.lengths[line][owner]
    prior = np.exp(-_TENSION * np.abs((inner + 0.5) / np.maximum(m, 1) - (column[owner] + 0.5) / n))
    prior[inner < 0] = 0
    total = np.bincount(owner, prior)[owner]
    prior = np.where(inner < 0, _NULL, (1 - _NULL) * prior / np.where(total > 0, total, 1))
    return owner, np.where(inner < 0, -1, source.starts[line][owner] + inner), prior


def _first_largest(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The place of each owner's largest value, the first of equal ones; owners are sorted and without gaps."""
    if not len(owner):
        return owner
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    largest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[owner])
    return largest[np.unique(owner[largest], return_index=True)[1]]
