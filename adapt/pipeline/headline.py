"""A stage's main numbers on one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.display import measured, short

MOST = 6


def headline(metrics: Mapping[str, Any]) -> str:
    """At most six numbers: pairs of before and after first, since they tell what a stage was for, then plain ones."""
    changes = list(_changes(metrics, ""))
    plain = [measured(name, value) for name, value in metrics.items() if _number(value)]
    return "  ".join((changes + plain)[:MOST])


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _changes(metrics: Mapping[str, Any], place: str) -> Iterator[str]:
    """`general 2.01 → 2.05` for {"general": {"start": 2.01, "end": 2.05}}, and the same for before and after."""
    for first, last in (("start", "end"), ("before", "after")):
        old, new = metrics.get(first), metrics.get(last)
        if _number(old) and _number(new):
            yield f"{place} {short(old)} → {short(new)}".strip()
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            for name in old:
                if _number(old[name]) and _number(new.get(name)):
                    yield f"{place} {name.replace('_', ' ')} {short(old[name])} → {short(new[name])}".strip()
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name not in ("start", "end", "before", "after"):
            yield from _changes(value, name)
