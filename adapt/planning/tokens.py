"""Tokens and steps of a train stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.data.sources import Source

BYTES_PER_TOKEN = 4.0
"""Bytes of text in a token where a stage counts epochs: stated, since nothing is tokenised for a plan."""


@dataclass(frozen=True)
class Budget:
    """`stated` is empty, or says which number behind `tokens` is no setting of the recipe; None where nothing tells."""

    tokens: int | None
    steps: int | None
    stated: str = ""


def budget_of(stage: Any, sources: Mapping[str, Source]) -> Budget:
    """How many tokens a stage trains on, and in how many updates."""
    update = stage.batch_size * stage.gradient_accumulation * stage.sequence_length
    if stage.tokens is not None:
        return Budget(stage.tokens, max(1, math.ceil(stage.tokens / update)))
    sizes = {name: _bytes(sources.get(name)) for name in stage.mixture if stage.mixture[name]}
    if any(size is None for size in sizes.values()):
        return Budget(None, None, "epochs of a source whose size is not known before it is read")
    once = min(size / stage.mixture[name] for name, size in sizes.items()) / BYTES_PER_TOKEN
    tokens = round(stage.epochs * once)
    return Budget(tokens, max(1, math.ceil(tokens / update)), f"{BYTES_PER_TOKEN:g} bytes of the files in a token")


def _bytes(source: Any) -> int | None:
    """Bytes of a source of local files; None for any other."""
    if source is None or source.key != "files":
        return None
    try:
        return sum(path.stat().st_size for path in source.paths())
    except Exception:  # a missing file is what `adapt check` is for
        return None
