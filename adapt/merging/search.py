"""The search for coefficients: propose values, set them in the running model, score it, keep what was best."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.evaluation.suites.base import Candidate
from adapt.merging.objective import Goal, loss
from adapt.merging.proposals import PROPOSALS
from adapt.merging.template import Template
from adapt.merging.trials import Trial, Trials

if TYPE_CHECKING:
    from adapt.merging.live import LiveModel

_BROKEN = 1e6
"""The loss that an optimiser is told of a model that gives no finite numbers."""
Report = Callable[[int, int, Trial, float, float], None]


@dataclass(frozen=True)
class Outcome:
    """The trials of a search in their order, their losses, and which is the best."""

    template: Template
    goals: tuple[Goal, ...]
    trials: tuple[Trial, ...]
    losses: tuple[float, ...]
    best: int

    def record(self, method: str, seed: int) -> dict[str, Any]:
        """The search as plain data, for search.json and a manifest."""
        best = self.trials[self.best]
        return {
            "expression": self.template.expression,
            "method": method,
            "seed": seed,
            "goals": {
                goal.name: {"metric": goal.suite.metric, "weight": goal.weight, "items": len(goal.items)}
                for goal in self.goals
            },
            "vocabulary_from": self.template.merge.roles.anchor,
            "special_from": self.template.merge.roles.special_from,
            "best": {
                "expression": self.template.text(best.values),
                "by_group": self.template.expressions(best.values) if self.template.grouped else {},
                "values": dict(best.values),
                "scores": dict(best.scores),
                "loss": self.losses[self.best],
            },
            "trials": [
                {
                    "values": dict(trial.values),
                    "scores": dict(trial.scores),
                    "loss": value if math.isfinite(value) else None,
                    "seconds": trial.seconds,
                }
                for trial, value in zip(self.trials, self.losses, strict=True)
            ],
        }


def search(
    template: Template,
    goals: Sequence[Goal],
    folder: Path,
    method: str = "grid",
    trials: int = 16,
    seed: int = 0,
    report: Report | None = None,
) -> Outcome:
    """Score up to `trials` values of the coefficients; those that `folder` knows already are not scored again.

    The model is made once and its weights are set in place. `report` is told each trial's number, how many there will
    be, the trial, its loss and the least loss so far. Raises AdaptError where no trial gave finite numbers, and what
    proposals, trials and the running model raise; MergeError as a merge does.
    """
    proposals = PROPOSALS[method](template.groups.coefficients, trials, seed)
    records = Trials(folder, key_of(template, goals))
    scored = _Scorer(template, goals)
    done: list[Trial] = []
    losses: list[float] = []
    while len(done) < proposals.trials and (point := proposals.ask()) is not None:
        values = dict(zip(proposals.labels, map(_rounded, point), strict=True))
        trial = records.find(values)
        if trial is None:
            trial = scored(values)
            records.add(trial)
        value = loss(goals, trial.scores)
        proposals.tell(point, value if math.isfinite(value) else _BROKEN)
        done.append(trial)
        losses.append(value)
        if report is not None:
            report(len(done), proposals.trials, trial, value, min(losses))
    best = min(range(len(done)), key=losses.__getitem__)
    if not math.isfinite(losses[best]):
        raise AdaptError(f"none of the {len(done)} trials gave a model with finite scores; narrow the ranges")
    return Outcome(template, tuple(goals), tuple(done), tuple(losses), best)


def key_of(template: Template, goals: Sequence[Goal]) -> str:
    """A hash of all that scores depend on: inputs, expression, ranges, groups, roles, output types, items of goals."""
    content = [
        template.merge.key({"all": list(template.merge.outputs)}),
        template.expression,
        [repr(free) for free in template.frees],
        [[goal.name, goal.suite.model_dump(), [repr(item) for item in goal.items]] for goal in goals],
    ]
    return hashlib.blake2b(json.dumps(content).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def _rounded(value: float) -> float:
    """Six digits, so that the expression that is shown is the one that was scored."""
    return float(f"{value:.6g}") + 0.0  # no negative zero


class _Scorer:
    """Scores values; the model is made when the first of them are scored."""

    def __init__(self, template: Template, goals: Sequence[Goal]) -> None:
        self.template, self.goals = template, goals
        self.live: LiveModel | None = None

    def __call__(self, values: Mapping[str, float]) -> Trial:
        from adapt.merging.live import LiveModel

        if self.live is None:
            self.live = LiveModel(self.template.merge)
        started = time.perf_counter()
        tensors = self.live.set(self.template.at(values))
        candidate = Candidate("merge", self.live.model, self.live.tokenizer)
        scores = {goal.name: goal.score(candidate) for goal in self.goals}
        finite = {name: score if math.isfinite(score) else None for name, score in scores.items()}
        return Trial(values, finite, round(time.perf_counter() - started, 3), tensors)
