"""The table at the end of a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.report.records import Record, read_record

if TYPE_CHECKING:
    from adapt.display import Display


def summary(display: Display, stages: Mapping[str, Path]) -> None:
    """Print one row per stage: what it is, how long it took, and the number that matters most."""
    records = [read_record(name, folder) for name, folder in stages.items()]
    rows = [[record.name, record.kind, record.state, record.time, headline(record)] for record in records]
    display.table("the run", ("stage", "kind", "state", "time", "result"), rows)


def headline(record: Record) -> str:
    """One stage in a few words; empty where nothing is measured."""
    metrics = record.metrics
    heads = {"train": _train, "expand_vocabulary": _expand, "merge": _merge, "export": _export, "evaluate": _evaluate}
    return heads[record.kind](metrics) if metrics and record.kind in heads else ""


def _train(metrics: Mapping[str, Any]) -> str:
    ends = [
        f"{name} {values['start']:.3f} -> {values['end']:.3f}"
        for name, values in [*(metrics.get("target") or {}).items(), ("general", metrics.get("general") or {})]
        if values.get("start") is not None and values.get("end") is not None
    ]
    return "bits per byte: " + ", ".join(ends) if ends else ""


def _expand(metrics: Mapping[str, Any]) -> str:
    before, after = (metrics.get(when) or {} for when in ("before", "after"))
    if "fertility" not in before or "fertility" not in after:
        return ""
    return f"{metrics.get('added', '?')} pieces, fertility {before['fertility']:.2f} -> {after['fertility']:.2f}"


def _merge(metrics: Mapping[str, Any]) -> str:
    warnings = len(metrics.get("warnings") or [])
    noun = "warning" if warnings == 1 else "warnings"
    return str(metrics.get("expression", "")) + (f" ({warnings} {noun})" if warnings else "")


def _export(metrics: Mapping[str, Any]) -> str:
    choice, formats = metrics.get("choice") or {}, metrics.get("formats") or {}
    written = (choice.get("measured") or {}).get(choice.get("written")) or {}
    if "kl" not in written:
        return ""
    return f"{', '.join(formats)}: base {choice['written']}, KL {written['kl']:.1e} to the live model"


def _evaluate(metrics: Mapping[str, Any]) -> str:
    models = metrics.get("models") or {}
    last = next(reversed(models), None)
    if last is None:
        return ""
    exact = [
        f"{suite} {score['value']:.0%}" for suite, score in models[last].items() if score.get("metric") == "exact_match"
    ]
    return f"{last}: " + ", ".join(exact) if exact else ""
