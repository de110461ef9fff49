"""An evaluation: scores with intervals, each model against its own base, forgetting, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.evaluation.metrics import harness_rows
from adapt.report import plots as draw
from adapt.report.blocks import Block, Cell, Text, table
from adapt.report.plots import Plots
from adapt.report.records import Record


def section(record: Record, plots: Plots) -> list[Block]:
    """The scores first, then what they mean against the own base."""
    metrics = record.metrics
    models = metrics.get("models") or {}
    if not models:
        return _so_far(record)
    suites = list(dict.fromkeys(suite for values in models.values() for suite in values))
    by_suite = {suite: {name: values[suite] for name, values in models.items() if suite in values} for suite in suites}
    blocks: list[Block] = [_scores(models, suites)] if suites else []
    if suites:
        note = "The whiskers are 95% intervals. Where two of them overlap widely, the difference may be chance."
        blocks.append(plots.image(f"{record.name}-scores", draw.bars(by_suite), "Scores", note))
    blocks += _harness(metrics)
    blocks += _comparison(metrics.get("comparison") or {}, metrics.get("own_base") or {}, models)
    blocks += _forgetting(metrics)
    return blocks + _examples(metrics.get("examples") or [], list(models))


def _scores(models: Mapping[str, Any], suites: Sequence[str]) -> Block:
    rows = [[name, *(_score(values.get(suite)) for suite in suites)] for name, values in models.items()]
    note = (
        "Exact match is the share of questions answered exactly; more is better. Bits per byte is how well held-out "
        "text is predicted; less is better. In brackets the 95% interval, from resampling the items."
    )
    return table("Scores", ["model", *(f"{suite} ({_items(models, suite)})" for suite in suites)], rows, note)


def _items(models: Mapping[str, Any], suite: str) -> str:
    score = next(values[suite] for values in models.values() if suite in values)
    noun = "questions" if score.get("metric") == "exact_match" else "documents"
    return f"{score.get('n', '?')} {noun}"


def _score(score: Mapping[str, Any] | None) -> Cell:
    if score is None:
        return Cell("")
    if score.get("metric") == "exact_match":
        text = f"{100 * score['value']:.1f}% ({100 * score['low']:.1f} to {100 * score['high']:.1f})"
        return Cell(text + (", asked in prose" if score.get("form") == "prose" else ""))
    return Cell(f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})")


def _comparison(comparison: Mapping[str, Any], bases: Mapping[str, str], models: Mapping[str, Any]) -> list[Block]:
    rows = []
    for name, suites in comparison.items():
        for suite, result in suites.items():
            score = models[name][suite]
            counts = [result["win"], result["tie"], result["loss"]]
            rows.append([name, bases.get(name), suite, *counts, _difference(result, score)])
    note = (
        "Item by item: how often the model beats its own base, ties with it, or loses. The difference is the model's "
        "score less its base's, with its 95% interval; green is a sure gain, red a sure loss, plain may be chance."
    )
    columns = ("model", "own base", "suite", "win", "tie", "loss", "difference")
    return [table("Each model against its own base", columns, rows, note)] if rows else []


def _difference(result: Mapping[str, float], score: Mapping[str, Any]) -> Cell:
    percent = score.get("metric") == "exact_match"
    scale, form = (100, "+.1f") if percent else (1, "+.3f")
    value, low, high = (scale * result[key] for key in ("difference", "low", "high"))
    sign = 1 if score.get("better", "higher" if percent else "lower") == "higher" else -1
    tone = "good" if min(sign * low, sign * high) > 0 else "bad" if max(sign * low, sign * high) < 0 else ""
    return Cell(f"{value:{form}} ({low:{form}} to {high:{form}})" + (" points" if percent else ""), tone)


def _harness(metrics: Mapping[str, Any]) -> list[Block]:
    """A row per model, task and metric of the lm-evaluation-harness."""
    if not metrics.get("harness"):
        return []
    note = (
        "Values and standard errors as the harness reports them. The difference is the model's value less its own "
        "base's, with its 95% interval over documents."
    )
    columns = ("model", "task", "metric", "value", "stderr", "documents", "to the own base")
    return [table("Tasks of the lm-evaluation-harness", columns, harness_rows(metrics), note)]


def _forgetting(metrics: Mapping[str, Any]) -> list[Block]:
    rows = []
    for name, value in (metrics.get("forgetting") or {}).items():
        if not isinstance(value, Mapping):
            rows.append([name, None, None, value, None])
            continue
        interval = f"{value['change']:+.4f} ({value['low']:+.4f} to {value['high']:+.4f})"
        rows.append([name, value["before"], value["after"], interval, Cell(f"{value['percent']:+.2f}%", number=True)])
    source = metrics.get("forgetting_source")
    note = "The rise of bits per byte on general text" + (f" ('{source}')" if source else "") + " over the own base. "
    note += "Above 0, the model predicts general text worse than before: it has forgotten."
    columns = ("model", "own base", "model's own", "change", "in percent")
    return [table("Forgetting", columns, rows, note)] if rows else []


def _examples(examples: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    for suite in dict.fromkeys(example["suite"] for example in examples):
        rows = [
            [example["prompt"], example["expected"], *(_answer(example, name) for name in models)]
            for example in examples
            if example["suite"] == suite
        ]
        note = "The first questions of the suite with every model's answer, green where it counts as right."
        blocks.append(table(f"Answers: {suite}", ["question", "expected", *models], rows, note))
    return blocks


def _answer(example: Mapping[str, Any], name: str) -> Cell:
    answer = (example.get("answers") or {}).get(name, "")
    right = (example.get("right") or {}).get(name, False)
    return Cell(("✓ " if right else "✗ ") + (answer or "(nothing)"), "good" if right else "")


def _so_far(record: Record) -> list[Block]:
    rows = [
        [line.get("model"), line.get("task") or line.get("suite"), line.get("value")] for line in record.log("score")
    ]
    return [table("Scores so far", ("model", "suite", "value"), rows)] if rows else [Text("No scores yet.")]
