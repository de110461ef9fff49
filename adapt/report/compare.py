"""Runs side by side: what differs in their settings, and what came out of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.display import Display, duration_text, short, size_text
from adapt.errors import AdaptError
from adapt.report.blocks import Block, Table, change, table
from adapt.report.page import write_tables
from adapt.report.records import Record
from adapt.report.runs import RunRecords

_NOTHING = "–"
_DEPTH = 2
"""How deep numbers are looked for in the metrics of a kind of stage that this file does not know."""


@dataclass(frozen=True)
class Row:
    """One thing of one stage: its value in each run, None where there is none."""

    stage: str
    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Comparison:
    """What differs between runs. `labels` head the columns."""

    labels: tuple[str, ...]
    settings: tuple[Row, ...]
    numbers: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data: for every row its stage, name and value by run."""
        return {
            part: [
                {"stage": row.stage, "name": row.name, "values": dict(zip(self.labels, row.values, strict=True))}
                for row in getattr(self, part)
            ]
            for part in ("settings", "numbers")
        }


def compare(runs: Sequence[RunRecords]) -> Comparison:
    """Settings that differ, and the numbers of all; stages belong together by name, single stages whatever theirs.

    Raises AdaptError where runs share no stage.
    """
    sides = [{record.name: record for record in run.records() if record.state != "missing"} for run in runs]
    if all(len(side) == 1 for side in sides):
        name = " / ".join(dict.fromkeys(next(iter(side)) for side in sides))
        sides = [dict.fromkeys([name], *side.values()) for side in sides]
    stages = list(dict.fromkeys(name for side in sides for name in side))
    if not any(all(name in side for side in sides) for name in stages):
        known = "; ".join(
            f"'{run.label}' has {', '.join(side) or 'none'}" for run, side in zip(runs, sides, strict=True)
        )
        raise AdaptError(f"these runs share no stage: {known}")
    settings, numbers = [], []
    for name in stages:
        records = [side.get(name) for side in sides]
        settings += _rows(name, [_settings(record) for record in records], only_different=True)
        numbers += _rows(name, [_numbers(record) for record in records], only_different=False)
    return Comparison(tuple(run.label for run in runs), tuple(settings), tuple(numbers))


def _rows(stage: str, values: Sequence[Mapping[str, Any] | None], only_different: bool) -> Iterator[Row]:
    present = [side for side in values if side is not None]
    for key in dict.fromkeys(key for side in present for key in side):
        found = tuple(None if side is None else side.get(key) for side in values)
        if not only_different or (len(present) > 1 and any(side.get(key) != present[0].get(key) for side in present)):
            yield Row(stage, key, found)


def _settings(record: Record | None) -> dict[str, Any] | None:
    """Settings with dotted keys, seed, kind, and the digests of what was read."""
    if record is None:
        return None
    manifest = record.manifest
    values = {name: manifest.get(name) for name in ("kind", "seed")} | _flat(record.settings)
    inputs = manifest.get("inputs") or {}
    for what, label in (("models", "model"), ("sources", "source"), ("stages", "stage"), ("files", "file")):
        for name, value in (inputs.get(what) or {}).items():
            text = json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else str(value)
            values[f"content of {label} '{name}'"] = _short_digest(value, text)
    return values


def _short_digest(value: Any, text: str) -> str:
    content = str(value.get("content", text)) if isinstance(value, Mapping) else text
    return content.removeprefix("sha256:")[:12]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {key: item for name, own in value.items() for key, item in _flat(own, f"{prefix}.{name}".strip(".")).items()}


def _numbers(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    kinds = {"train": _train, "evaluate": _evaluate}
    own = dict(kinds.get(record.kind, _any)(record.metrics)) if record.metrics else {}
    return ({"time (seconds)": record.seconds} if record.seconds is not None else {}) | own


def _train(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, label in (
        ("peak_memory_bytes", "peak memory (bytes)"),
        ("tokens_per_second", "tokens per second"),
        ("tokens", "tokens"),
    ):
        if metrics.get(name) is not None:
            yield label, metrics[name]
    trainable = metrics.get("trainable") or {}
    if trainable.get("parameters") is not None:
        yield "trainable parameters", trainable["parameters"]
    for name, values in [*(metrics.get("target") or {}).items(), ("general", metrics.get("general") or {})]:
        start, end = values.get("start"), values.get("end")
        if end is not None:
            yield f"bits per byte: {name}", end
        if name == "general" and start is not None and end is not None:
            yield "forgetting: general (bits per byte)", end - start


def _evaluate(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for model, suites in (metrics.get("models") or {}).items():
        for suite, score in suites.items():
            yield f"{model}: {suite} ({score['metric'].replace('_', ' ')})", score["value"]
    for model, value in (metrics.get("forgetting") or {}).items():
        yield f"{model}: forgetting (%)", value["percent"]
    for model, rows in (metrics.get("harness") or {}).items():
        for row in rows:
            cut = "" if row["filter"] == "none" else f", {row['filter']}"
            yield f"{model}: {row['task']} ({row['metric']}{cut})", row["value"]


def _any(metrics: Mapping[str, Any], path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        label = f"{path}{name.replace('_', ' ')}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield label, value
        elif isinstance(value, Mapping) and depth > 1:
            yield from _any(value, f"{label}: ", depth - 1)


def shown(row: Row, value: Any) -> str:
    """A value as a person reads it: sizes and times with their units."""
    if value is None:
        return _NOTHING
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if row.name.endswith("(bytes)"):
            return size_text(value)
        return duration_text(value) if row.name.endswith("(seconds)") else short(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _change(row: Row) -> Any:
    """In percent; none for forgetting, which is a difference already."""
    return None if "forgetting" in row.name else change(*row.values)


def _label(row: Row) -> str:
    return row.name.removesuffix(" (bytes)").removesuffix(" (seconds)")


def tables(comparison: Comparison) -> list[Table]:
    """Both tables; two runs get a column with the change from the first to the second."""
    labels, two = comparison.labels, len(comparison.labels) == 2
    settings = [[row.stage, row.name, *(shown(row, value) for value in row.values)] for row in comparison.settings]
    numbers = [
        [row.stage, _label(row), *(shown(row, value) for value in row.values), *([_change(row)] if two else [])]
        for row in comparison.numbers
    ]
    return [
        table("Settings that differ", ("stage", "setting", *labels), settings),
        table("Numbers", ("stage", "number", *labels, *(["change"] if two else [])), numbers),
    ]


def write_comparison(path: Path, comparison: Comparison) -> Path:
    """Write the comparison as one page that loads nothing."""
    settings, numbers = tables(comparison)
    parts: dict[str, list[Block]] = {"Numbers": [numbers]}
    if settings.rows:
        parts["Settings"] = [settings]
    runs = table("", ("run",), [[label] for label in comparison.labels])
    return write_tables(path, " · ".join(comparison.labels), "", parts, runs)


def show(comparison: Comparison, display: Display) -> None:
    """Print both tables."""
    settings, numbers = tables(comparison)
    if settings.rows:
        display.table(settings.title, settings.columns, [[cell.text for cell in row] for row in settings.rows])
    else:
        display.line("the settings are the same")
    display.table(numbers.title, numbers.columns, [[cell.text for cell in row] for row in numbers.rows])
