"""`align`: a new row is the mean of the rows of the old tokens that translate it in a parallel corpus."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.settings import Count
from adapt.vocabulary.initialisation.base import NewRows
from adapt.vocabulary.initialisation.combination import Combination, Combining, twins, with_copies

if TYPE_CHECKING:
    from adapt.vocabulary.evidence import Evidence

Table = defaultdict[int, defaultdict[int, float]]


class Align(Combining):
    """Token translation, learned from two files whose lines translate each other."""

    paths: ClassVar[tuple[str, ...]] = ("source", "target")

    method: Literal["align"] = "align"
    """Token translation, learned from two files whose lines translate each other."""
    source: str
    """A text file in the base model's language; its lines translate those of `target`."""
    target: str
    """A text file in the new pieces' language, with as many lines as `source`."""
    lines: Count = 50_000
    """The most lines that are read; 50,000 of 20 words take about 2 GB of memory."""
    iterations: Count = 7
    """Rounds of expectation maximisation of the word alignment."""
    min_count: Count = 10
    """The fewest times that two words must be linked to count as translations."""

    def files(self) -> Iterator[Path]:
        """Both files of lines."""
        return iter((Path(self.source).expanduser(), Path(self.target).expanduser()))

    def combination(self, new: NewRows) -> Combination:
        """`row_t = sum_s p(s | t) row_s`, p from linked words (Remy et al., COLM 2024, arXiv 2408.04303).

        The links of two words are split among their tokens: half evenly, half in order. A piece with the text of an
        old token is its copy (digits, marks, names); one that no linked word holds is left to its parts.
        """
        import torch

        evidence = self.evidence_of(new)
        table = self._translations(new, evidence)
        allowed = set(new.ordinary.tolist())
        ids, weights = [], []
        for index in new.ids:
            row = {key: count for key, count in sorted(table[index].items()) if key in allowed}
            total = sum(row.values())
            ids.append(list(row))
            weights.append(torch.tensor([count / total for count in row.values()]))
        return with_copies(Combination(ids, weights), twins(new, evidence))

    def _translations(self, new: NewRows, evidence: Evidence) -> Table:
        """For each new id the old ids that it was linked with, and how often."""
        from adapt.vocabulary.vectors import inside
        from adapt.vocabulary.word_alignment import Side, aligned

        pairs = read_lines(self.source, self.target, self.lines)
        source, target = (Side.of(side) for side in zip(*pairs, strict=True))
        links = zip(*(part.tolist() for part in aligned(source, target, self.iterations)), strict=True)
        frequent = [link for link in links if link[2] >= self.min_count]
        if not frequent:
            raise AdaptError(
                f"no two words of '{self.source}' and '{self.target}' are linked {self.min_count} times; "
                "give more lines or a lower min_count"
            )
        old, grown = inside(source.words, evidence.old), inside(target.words, evidence.new)
        return token_links(((old[s - 1], grown[t - 1], count) for s, t, count in frequent), set(new.ids))


def read_lines(source: str, target: str, most: int) -> list[tuple[list[str], list[str]]]:
    """The words of lines that translate each other, without pairs in which a line is empty or overlong.

    Raises AdaptError for a missing file, for files of different length, and where nothing is left.
    """
    from adapt.vocabulary.vectors import check_file
    from adapt.vocabulary.word_alignment import LONGEST, words_of

    sides = []
    for path in (source, target):
        with check_file(path, "file of aligned lines").open(encoding="utf-8", errors="replace", newline="\n") as lines:
            sides.append(list(lines))
    if len(sides[0]) != len(sides[1]):
        raise AdaptError(
            f"'{source}' has {len(sides[0]):,} lines and '{target}' has {len(sides[1]):,}; "
            "line by line, one must translate the other"
        )
    words = ((words_of(one), words_of(other)) for one, other in zip(*sides, strict=True))
    usable = (pair for pair in words if all(0 < len(side) <= LONGEST for side in pair))
    pairs = list(itertools.islice(usable, most))
    if not pairs:
        raise AdaptError(f"'{source}' and '{target}' hold no pair of lines of 1 to {LONGEST} words")
    return pairs


def token_links(links: Iterable[tuple[Sequence[int], Sequence[int], int]], wanted: set[int]) -> Table:
    """From links of words (their old tokens, their new tokens, count) to links of tokens, for the `wanted` new ones."""
    table: Table = defaultdict(lambda: defaultdict(float))
    for old, grown, count in links:
        if not old or wanted.isdisjoint(grown):
            continue
        for index, shares in zip(grown, spread(len(old), len(grown)), strict=True):
            if index in wanted:
                for key, share in zip(old, shares, strict=True):
                    table[index][key] += count * share
    return table


def spread(old: int, new: int) -> list[list[float]]:
    """How one link of two words is split among their tokens, `[new][old]`, in all 1: half evenly, half in order.

    In order: both words are laid along the same line, and two tokens are linked as far as they lie over each other.
    """
    return [
        [0.5 / (old * new) + 0.5 * _overlap(i / old, j / new, 1 / old, 1 / new) for i in range(old)] for j in range(new)
    ]


def _overlap(first: float, second: float, width: float, other: float) -> float:
    return max(0.0, min(first + width, second + other) - max(first, second))
