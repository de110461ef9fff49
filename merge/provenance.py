"""Where a merged model comes from: `merge.json` and the model card."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge.formula import Call, Formula, Linear
from merge.methods import METHODS

if TYPE_CHECKING:
    from merge.planning import Merge


def describe(merge: Merge) -> dict[str, Any]:
    """What is merged how: expression, coefficients, roles, rows by rule, warnings, versions."""
    return {
        "expression": merge.combination.text,
        "coefficients": merge.combination.coefficients,
        "vocabulary_from": merge.tokenizer.name,
        "special_from": merge.roles.special_from,
        "rows": dict(merge.rows.counts),
        "seeds": _by_method(seed for part in merge.parts.values() for seed in _seeds(part.formula)),
        "warnings": list(merge.warnings),
        "versions": {name: _version(name) for name in ("adapt", "torch", "safetensors")}
        | {"python": platform.python_version()},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy of the sources that nobody installed
        return None


def _seeds(formula: Formula | None) -> Iterator[tuple[str, int]]:
    """The seeds of calls that draw random numbers, by method."""
    if isinstance(formula, Call):
        if METHODS[formula.method].random:
            yield formula.method, formula.seed
        parts: tuple[Formula | None, ...] = (*formula.models, formula.base)
    elif isinstance(formula, Linear):
        sides = [side for difference in formula.differences for side in (difference.minuend, difference.subtrahend)]
        parts = (formula.start, *sides)
    else:
        parts = ()
    for part in parts:
        yield from _seeds(part)


def _by_method(seeds: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for method, seed in sorted(set(seeds)):
        found.setdefault(method, []).append(seed)
    return found


def licence(folder: Path) -> str | None:
    """The licence that a model's card names, if it has a card and that names one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = re.search(r"^license:\s*['\"]?([^'\"#\n]+)", head, re.MULTILINE)
    return found[1].strip() if found else None


def model_card(record: Mapping[str, Any]) -> str:
    """A README for the merged folder: formula, parents, what to know."""
    return "\n".join(_card(record)) + "\n"


def _card(record: Mapping[str, Any]) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "tags:", "- merge", "---", "")
    yield from ("# Merged model", "", f"`{record['expression']}`", "", "Computed in float32 and rounded once.", "")
    yield from ("| model | where it was | licence | fingerprint |", "|---|---|---|---|")
    for name, found in record["inputs"].items():
        yield f"| {name} | `{found['folder']}` | {found['license'] or 'not said'} | `{found['fingerprint']}` |"
    yield ""
    special = record["special_from"] or "the formula"
    yield f"The vocabulary is that of `{record['vocabulary_from']}`; special and chat tokens come from {special}."
    yield ""
    if record["warnings"]:
        yield from (*(f"- {warning}" for warning in record["warnings"]), "")
    yield "`merge.json` holds every decision and hash; `adapt merge verify` recomputes them."
