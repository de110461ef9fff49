"""From scores to the numbers of a manifest, and to tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.evaluation.comparison import compare, forgetting, summarise
from adapt.evaluation.suites import HarnessSuite, ItemSuite, Suite

if TYPE_CHECKING:
    from adapt.display import Display
    from adapt.evaluation.scoring import Evaluation, Result


def metrics(
    evaluation: Evaluation,
    suites: Mapping[str, Suite],
    items: Mapping[str, Sequence[Any]],
    results: Mapping[str, Mapping[str, Result]],
) -> dict[str, Any]:
    """Scores with intervals, each model against its own base, forgetting, the first answers side by side."""
    seed, bases, general = evaluation.seed, evaluation.bases, evaluation.general_suite()
    by_item = {name: suite for name, suite in suites.items() if isinstance(suite, ItemSuite)}
    values = {
        name: {suite: summarise(kind, own[suite], seed) for suite, kind in by_item.items()}
        for name, own in results.items()
    }
    compared = {
        name: {
            suite: compare(kind, results[name][suite], results[base][suite], seed) for suite, kind in by_item.items()
        }
        for name, base in bases.items()
        for own in [results[name]]
    }
    forgotten = {
        name: forgetting(values[name][general], values[base][general], compared[name][general])
        for name, base in bases.items()
        if general is not None
    }
    examples = [
        {"suite": name, **example}
        for name, suite in by_item.items()
        for example in suite.examples(items[name], {model: own[name] for model, own in results.items()})
    ]
    return {
        "models": values,
        "own_base": dict(bases),
        "comparison": compared,
        "forgetting": forgotten,
        "forgetting_source": evaluation.forgetting,
        "window_bytes": evaluation.window_bytes,
        "examples": examples,
        **_harness(suites, results, bases, seed),
    }


def _harness(
    suites: Mapping[str, Suite], results: Mapping[str, Mapping[str, Result]], bases: Mapping[str, str], seed: int
) -> dict[str, Any]:
    """What the lm-evaluation-harness found, where a suite asked it: rows per model, and differences to the own base."""
    names = [name for name, suite in suites.items() if isinstance(suite, HarnessSuite)]
    if not names:
        return {}
    from adapt.evaluation.harness import compare_tasks

    rows = {
        model: [{"suite": suite, **score.shown} for suite in names for score in own[suite]]
        for model, own in results.items()
    }
    compared = {
        model: [
            {"suite": suite, **row}
            for suite in names
            for row in compare_tasks(results[model][suite], results[base][suite], seed)
        ]
        for model, base in bases.items()
    }
    return {"harness": rows, "harness_comparison": compared}


def show(title: str, found: Mapping[str, Any], display: Display) -> None:
    """Print the scores with their intervals, forgetting beside them, and what the harness found."""
    suites = list(next(iter(found["models"].values())))
    forgotten = found["forgetting"]
    if suites:
        rows = [
            [name, *(_cell(values[suite]) for suite in suites), *([_percent(forgotten.get(name))] if forgotten else [])]
            for name, values in found["models"].items()
        ]
        columns = ["model", *suites, *(["forgetting"] if forgotten else [])]
        display.table(f"{title}: scores with 95% intervals", columns, rows)
    won = [
        [name, found["own_base"][name], suite, f"{cell['win']}/{cell['tie']}/{cell['loss']}"]
        for name, compared in found["comparison"].items()
        for suite, cell in compared.items()
    ]
    if won:
        display.table("each against its own base", ["model", "base", "suite", "win/tie/loss"], won)
    if found.get("harness"):
        columns = ["model", "task", "metric", "value", "stderr", "documents", "to the own base"]
        display.table(f"{title}: tasks of the lm-evaluation-harness", columns, harness_rows(found))


def harness_rows(found: Mapping[str, Any]) -> list[list[Any]]:
    """A row per model, task and metric: value, standard error, documents, difference to the own base."""
    differences = {
        (model, row["suite"], row["task"], row["metric"], row["filter"]): row
        for model, rows in (found.get("harness_comparison") or {}).items()
        for row in rows
    }
    table = []
    for model, rows in found["harness"].items():
        for row in rows:
            metric = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
            other = differences.get((model, row["suite"], row["task"], row["metric"], row["filter"]))
            stderr = "" if row["stderr"] is None else f"{row['stderr']:.4f}"
            table.append([model, row["task"], metric, f"{row['value']:.4f}", stderr, row["n"], _difference(other)])
    return table


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    interval = f" ({row['low']:+.4f} to {row['high']:+.4f})" if "low" in row else ""
    return f"{row['difference']:+.4f}{interval}"


def _cell(score: Mapping[str, Any]) -> str:
    if score["metric"] == "exact_match":
        text = f"{score['value']:.0%} ({score['low']:.0%} to {score['high']:.0%})"
        return text + (" in prose" if score.get("form") == "prose" else "")
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _percent(forgotten: Mapping[str, float] | None) -> str:
    return "" if forgotten is None else f"{forgotten['percent']:+.1f}%"
