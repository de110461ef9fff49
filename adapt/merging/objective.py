"""What a search lowers: the weighted mean of bits per byte on held-out texts and of error rates on tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.data.sources import Files, Source
from adapt.errors import AdaptError
from adapt.evaluation.suites import BitsPerByteSuite, ExactMatchSuite, ItemSuite

if TYPE_CHECKING:
    from adapt.evaluation.suites.base import Candidate


@dataclass(frozen=True)
class Goal:
    """A text or a task with its items and its weight; a score is bits per byte, or the share of right answers."""

    name: str
    suite: ItemSuite
    items: Sequence[Any]
    weight: float

    def score(self, candidate: Candidate) -> float:
        """The score of a model."""
        scores = self.suite.score(candidate, self.items, lambda done: None)
        return sum(scores.totals) / sum(scores.weights)


def loss(goals: Sequence[Goal], scores: Mapping[str, float | None]) -> float:
    """`sum_g w_g l_g / sum_g w_g` with `l` the bits per byte of a text or 1 less the share of right answers of a task.

    With texts and tasks together the weights also say what one bit per byte is worth in wrong answers. Infinite where
    a score is None (the model did not give finite numbers).
    """
    total = 0.0
    for goal in goals:
        value = scores[goal.name]
        if value is None or not math.isfinite(value):
            return math.inf
        total += goal.weight * (value if goal.suite.better == "lower" else 1.0 - value)
    return total / sum(goal.weight for goal in goals)


def text_goal(name: str, source: Source, weight: float, size: int) -> Goal:
    """The first held-out documents of a source, `size` bytes of them. Raises AdaptError where there are none."""
    suite = BitsPerByteSuite(kind="bits_per_byte", source=name, bytes=size)
    return Goal(name, suite, suite.items(source), weight)


def task_goal(name: str, source: Source, weight: float, limit: int) -> Goal:
    """Questions in rows with `prompt` and `answer` (or `completion`). Raises AdaptError for other rows."""
    row = next(islice(source.rows(), 1), {})
    answer = "answer" if "answer" in row else "completion"
    suite = ExactMatchSuite(kind="exact_match", source=name, answer=answer, limit=limit)
    return Goal(name, suite, suite.items(source), weight)


def goals_of(texts: Sequence[str], tasks: Sequence[str], size: int, limit: int) -> tuple[Goal, ...]:
    """Goals from files as they are typed: `uk.txt`, `uk.txt:0.7`. All of a file counts as held out.

    Raises AdaptError for a file that is not there or is given twice, for a weight that is not above 0 and for no file.
    """
    found: dict[str, Goal] = {}
    for given, make, most in ((texts, text_goal, size), (tasks, task_goal, limit)):
        for text in given:
            path, weight = weighted(text)
            if path in found:
                raise AdaptError(f"'{path}' is given twice")
            found[path] = make(path, Files(files=(path,), held_out=1.0), weight, most)
    if not found:
        raise AdaptError("nothing says which coefficients are good; give a held-out text: --text FILE")
    return tuple(found.values())


def weighted(text: str) -> tuple[str, float]:
    """A file and its weight: 1 where none stands behind a colon."""
    head, sign, tail = text.rpartition(":")
    try:
        path, weight = (head, float(tail)) if sign and not Path(text).exists() else (text, 1.0)
    except ValueError:
        path, weight = text, 1.0
    if not (weight > 0 and math.isfinite(weight)):
        raise AdaptError(f"the weight of '{path}' is {weight:g}; it must be above 0")
    return path, weight
