"""Scores models on suites, one model in memory at a time, each against its own base: a stage's work and a command's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import read_json
from adapt.evaluation.suites import BitsPerByteSuite, Candidate, HarnessSuite, ItemSuite, Scores, Suite
from adapt.mixture.domain import in_domain

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.display import Display
    from adapt.evaluation.harness import TaskScore
    from adapt.log import Log

FORGETTING = "forgetting"
Loader = Callable[[str], tuple[Any, Any]]
"""From a model's name to the model and its tokenizer."""
Result = Scores | list["TaskScore"]


@dataclass(frozen=True)
class Evaluation:
    """What is measured, the same for every model.

    `bases` names the model that each is compared with; `forgetting` is the source of general text, if any;
    `window_bytes` how much text a model sees at once; `chat_templates` those that suites borrow, by model.
    """

    models: tuple[str, ...]
    suites: Mapping[str, Suite]
    sources: Mapping[str, Source]
    window_bytes: int
    bases: Mapping[str, str] = field(default_factory=dict)
    forgetting: str | None = None
    chat_templates: Mapping[str, str | None] = field(default_factory=dict)
    seed: int = 0

    def general_suite(self) -> str | None:
        """The suite that measures forgetting: one that already predicts that source, else one of its own."""
        if self.forgetting is None:
            return None
        for name, suite in self.suites.items():
            if isinstance(suite, BitsPerByteSuite) and suite.source == self.forgetting:
                return name
        return FORGETTING

    def all_suites(self) -> dict[str, Suite]:
        """The suites, with that of forgetting."""
        general = self.general_suite()
        if general is None or general in self.suites:
            return dict(self.suites)
        return {**self.suites, general: BitsPerByteSuite(kind="bits_per_byte", source=self.forgetting)}

    def run(self, load: Loader, kept: Path, display: Display, log: Log | None = None) -> dict[str, Any]:
        """Score one model after the other and return the numbers for a manifest.

        The scores of each are written below `kept`; those that a killed run left there are not made again.
        """
        from adapt.evaluation.metrics import metrics

        suites = self.all_suites()
        items = {
            name: suite.items(self.sources[suite.source])
            for name, suite in suites.items()
            if isinstance(suite, ItemSuite)
        }
        work = _Work(self, suites, items, display, log)
        results: dict[str, dict[str, Result]] = {}
        for name in self.models:
            path = kept / f"{name.replace('/', '%2F')}.json"
            if not path.exists():
                _save(path, work.score(name, load))
            results[name] = _read(path, suites)
        return metrics(self, suites, items, results)


@dataclass(frozen=True)
class _Work:
    """Suites and their items, which every model gets."""

    evaluation: Evaluation
    suites: Mapping[str, Suite]
    items: Mapping[str, Sequence[Any]]
    display: Display
    log: Log | None

    def score(self, name: str, load: Loader) -> dict[str, Result]:
        """All suites under one model, which is in memory only for that long."""
        model, tokenizer = load(name)
        evaluation = self.evaluation
        candidate = Candidate(name, model, tokenizer, evaluation.window_bytes, evaluation.chat_templates)
        sizes = {suite: len(self.items.get(suite, "1")) for suite in self.suites}  # a harness suite counts as one
        results: dict[str, Result] = {}
        done = 0
        with self.display.progress(f"evaluate {name}", sum(sizes.values())) as task:
            for suite, size in sizes.items():
                results[suite] = self._one(suite, candidate, lambda new, start=done: task.update(start + new))
                done += size
                told = self._tell(name, suite, results[suite])
                task.update(done, **told)
        return results

    def _one(self, name: str, candidate: Candidate, advance: Callable[[int], None]) -> Result:
        suite = self.suites[name]
        if isinstance(suite, HarnessSuite):
            from adapt.evaluation.harness import run_tasks

            return run_tasks(suite, candidate, self.evaluation.seed)
        with in_domain(candidate.model, suite.source):
            return suite.score(candidate, self.items[name], advance)

    def _tell(self, model: str, suite: str, result: Result) -> dict[str, float]:
        """Write the values to the log; returns the first for the progress line."""
        if isinstance(result, Scores):
            value = sum(result.totals) / sum(result.weights)
            told: list[dict[str, Any]] = [{"metric": self.suites[suite].metric, "value": value}]
        else:
            told = [{"task": score.task, "metric": score.metric, "value": score.value} for score in result]
        for numbers in told if self.log is not None else ():
            self.log.write("score", model=model, suite=suite, **numbers)
        return {suite: told[0]["value"]} if told else {}


def device_and_format() -> tuple[str, Any]:
    """Where models are scored and in which number format: as stored on a GPU, in float32 on a CPU."""
    import torch

    return ("cuda", "auto") if torch.cuda.is_available() else ("cpu", torch.float32)


def _save(path: Path, results: Mapping[str, Result]) -> None:
    """Write one model's scores whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    plain = {
        suite: asdict(found) if isinstance(found, Scores) else {"tasks": [asdict(score) for score in found]}
        for suite, found in results.items()
    }
    with part.open("w", encoding="utf-8") as file:
        json.dump(plain, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _read(path: Path, suites: Mapping[str, Suite]) -> dict[str, Result]:
    def result(suite: str, values: Mapping[str, Any]) -> Result:
        if not isinstance(suites[suite], HarnessSuite):
            return Scores(**values)
        from adapt.evaluation.harness import TaskScore

        return [TaskScore(**score) for score in values["tasks"]]

    return {suite: result(suite, values) for suite, values in read_json(path).items()}
