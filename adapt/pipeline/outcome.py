"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class StageResult:
    """What became of one stage.

    `done`: made in this run. `kept`: finished before. `pending`: a dry run says that it would be made; `folder` is
    where it would lie, and its manifest is empty.
    """

    folder: Path
    state: Literal["done", "kept", "pending"]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of the stages, in the order in which they ran."""

    stages: dict[str, StageResult] = field(default_factory=dict)
