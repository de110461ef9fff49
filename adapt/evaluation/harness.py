"""Runs tasks of the lm-evaluation-harness on a model that is in memory, and compares two models on them."""

from __future__ import annotations

import difflib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from adapt.errors import AdaptError
from adapt.evaluation.bootstrap import ratio_interval
from adapt.evaluation.suites.base import Candidate
from adapt.evaluation.suites.harness import MISSING, HarnessSuite

_STDERR = "_stderr"
_RESAMPLED = 1000
"""Draws for the standard error of a metric that is no mean."""


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task. `items` are the values of single documents where the metric is their mean, else empty.

    `filter` is the harness's name for how an answer was cut out of what the model said. `stderr` is None where the
    harness gives none (a single document, a metric without one).
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    better: str
    shots: int
    version: str
    items: list[float]

    @property
    def shown(self) -> dict[str, Any]:
        """What stands in manifest and report: all but the single documents."""
        return {name: value for name, value in vars(self).items() if name != "items"}


def run_tasks(suite: HarnessSuite, candidate: Candidate, seed: int) -> list[TaskScore]:
    """All metrics of the suite's tasks under a model.

    Raises AdaptError where the harness is not installed, a task is not known, its data cannot be had, or it fails.
    """
    try:
        from lm_eval.evaluator import evaluate
    except ImportError as error:
        raise AdaptError(MISSING) from error
    if suite.format == "chat" and not candidate.tokenizer.chat_template:
        raise AdaptError(f"'{candidate.name}' has no chat template; ask the tasks with format: prose")
    folder = None if suite.task_folder is None else Path(suite.task_folder).resolve()
    with _quiet(), _within(folder):
        manager = _manager(suite, folder)
        try:
            tasks = manager.load(list(suite.tasks))
            _prepare(tasks["tasks"].values(), suite.shots, seed)
            found = evaluate(
                _harness_model(suite, candidate),
                tasks,
                limit=suite.limit,
                bootstrap_iters=_RESAMPLED,
                apply_chat_template=suite.format == "chat",
                fewshot_as_multiturn=suite.format == "chat",
            )
        except Exception as error:
            raise _explained(error, suite) from error
    return list(_scores(found))


def _prepare(tasks: Iterable[Any], shots: int | None, seed: int) -> None:
    """Solved examples as many as asked for, except where a task forbids them, and always the same ones."""
    from transformers import set_seed

    set_seed(seed)
    for task in tasks:
        own = task.get_config("num_fewshot")
        if own != 0 and (shots is not None or own is None):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)


def _manager(suite: HarnessSuite, folder: Path | None) -> Any:
    """What knows the tasks: those of the folder alone where they suffice, since the published ones are thousands."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(suite.tasks) <= set(own.all_subtasks):
            return own
    manager = _published(folder)
    _check_names(suite, manager.all_tasks)
    return manager


@lru_cache(maxsize=2)
def _published(folder: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder) if folder else None)


def _harness_model(suite: HarnessSuite, candidate: Candidate) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=candidate.model, tokenizer=candidate.tokenizer, batch_size=suite.batch_size)


def _check_names(suite: HarnessSuite, known: Sequence[str]) -> None:
    for name in suite.tasks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "`lm-eval ls tasks` lists the published ones"
            where = f" and in '{suite.task_folder}'" if suite.task_folder else ""
            raise AdaptError(f"there is no task '{name}' in the lm-evaluation-harness{where}; {hint}")


def _explained(error: Exception, suite: HarnessSuite) -> Exception:
    """One line for whatever a task, its data or the hub raises; out of memory is left to those who know about it."""
    if isinstance(error, (AdaptError, MemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return AdaptError(f"the lm-evaluation-harness cannot run {', '.join(suite.tasks)}: {reason}")


@contextmanager
def _within(folder: Path | None) -> Iterator[None]:
    """Work in a folder, so that a task's relative data files are those that lie beside it."""
    before = Path.cwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness's own lines and bars stay away from the display; its errors come as exceptions."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _scores(found: Mapping[str, Any]) -> Iterator[TaskScore]:
    results = found["results"] | found.get("groups", {})
    for task, values in results.items():
        directions = found["higher_is_better"].get(task) or {}
        for key, value in values.items():
            metric, _, cut = key.partition(",")
            if not cut or metric.endswith(_STDERR) or isinstance(value, (str, bool)) or value is None:
                continue
            stderr = values.get(f"{metric}{_STDERR},{cut}")
            yield TaskScore(
                task=task,
                metric=metric,
                filter=cut,
                value=float(value),
                stderr=None if isinstance(stderr, str) or stderr is None else float(stderr),
                n=_number(found, task, values),
                better="lower" if directions.get(metric) is False else "higher",
                shots=int(found.get("n-shot", {}).get(task) or 0),
                version=str(found.get("versions", {}).get(task, "")),
                items=_items(found.get("samples", {}).get(task, ()), metric, cut, float(value)),
            )


def _number(found: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> int:
    counted = (found.get("n-samples") or {}).get(task)
    if counted is not None:
        return int(counted["effective"])
    return int(values.get("sample_len") or values.get("sample_count") or 0)


def _items(samples: Sequence[Mapping[str, Any]], metric: str, cut: str, value: float) -> list[float]:
    """The metric of each document, in the order of the documents; none where the value is not their mean."""
    own = sorted((sample for sample in samples if sample.get("filter") == cut), key=lambda sample: sample["doc_id"])
    numbers = [sample.get(metric) for sample in own]
    if not numbers or not all(isinstance(number, (int, float, np.number)) for number in numbers):
        return []
    plain = [float(number) for number in numbers]
    return plain if np.isclose(np.mean(plain), value) else []


def compare_tasks(own: Sequence[TaskScore], base: Sequence[TaskScore], seed: int) -> list[dict[str, Any]]:
    """The difference of each metric to the base's, with its 95% interval over documents where these are known."""
    bases = {(score.task, score.metric, score.filter): score for score in base}
    rows = []
    for score in own:
        other = bases.get((score.task, score.metric, score.filter))
        if other is None:
            continue
        row = {"task": score.task, "metric": score.metric, "filter": score.filter, "better": score.better}
        row["difference"] = score.value - other.value
        if score.items and len(score.items) == len(other.items):
            totals = np.array(score.items) - np.array(other.items)
            interval = ratio_interval(totals, np.ones(len(totals)), seed=seed)
            row |= {"low": interval.low, "high": interval.high}
        rows.append(row)
    return rows
