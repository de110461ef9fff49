"""Where a merged model comes from: `merge.json` and the model card."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

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
        "warnings": list(merge.warnings),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def model_card(record: Mapping[str, Any]) -> str:
    """A README for the merged folder: formula, parents, what to know."""
    return "\n".join(_card(record)) + "\n"


def _card(record: Mapping[str, Any]) -> Iterator[str]:
    yield from ("---", "library_name: transformers", "tags:", "- merge", "---", "")
    yield from ("# Merged model", "", f"`{record['expression']}`", "", "Computed in float32 and rounded once.", "")
    yield from ("| model | where it was | fingerprint |", "|---|---|---|")
    for name, found in record["inputs"].items():
        yield f"| {name} | `{found['folder']}` | `{found['fingerprint']}` |"
    yield ""
    special = record["special_from"] or "the formula"
    yield f"The vocabulary is that of `{record['vocabulary_from']}`; special and chat tokens come from {special}."
    for warning in record["warnings"]:
        yield f"- {warning}"
    yield "`merge.json` holds every decision and hash; `adapt merge verify` recomputes them."
