"""What a merge will read, write and hold, known from the headers."""

from __future__ import annotations

from typing import Any

from merge.budget import HELD
from merge.demand import demand, threads_for
from merge.formula import Call, Formula, Linear, leaves
from merge.planning import Merge

_PASSES = 3
"""The most passes that a method with statistics takes: two to find a threshold, one to write."""


def preflight(merge: Merge, threads: int | None = None) -> dict[str, Any]:
    """Bytes read in the first pass and written, the most passes over an input, the number of tensors, how many are made
    at once and the most bytes that are held of them (with what is kept between passes, where there are several)."""
    read = 0
    for part in merge.parts.values():
        read += sum(merge.checkpoints[name].tensors[part.names[name]].size for name in set(_read(part.formula, merge)))
    passes = max((_passes(part.formula) for part in merge.parts.values()), default=1)
    demands = sorted((demand(merge, output) for output in merge.outputs), reverse=True)
    workers = threads_for(merge, merge.outputs, threads)
    held = sum(demands[:workers]) + (HELD.size if passes > 1 else 0)
    return {
        "read": read,
        "written": merge.size,
        "passes": passes,
        "tensors": len(merge.outputs),
        "threads": workers,
        "held": held,
    }


def _read(formula: Formula, merge: Merge) -> list[str]:
    return [name for name in leaves(formula) if name in merge.checkpoints]


def _passes(formula: Formula | None) -> int:
    if isinstance(formula, Call):
        return _PASSES + max((_passes(part) for part in (*formula.models, formula.base)), default=1) - 1
    if isinstance(formula, Linear):
        parts = [formula.start, *(side for d in formula.differences for side in (d.minuend, d.subtrahend))]
        return max(_passes(part) for part in parts)
    return 1
