"""Trials as JSON lines: what was scored stays scored, so that a search that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.errors import AdaptError

TRIALS = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """Values by label, the score of each goal (None where the model gave no finite number), seconds, new tensors."""

    values: Mapping[str, float]
    scores: Mapping[str, float | None]
    seconds: float
    tensors: int


class Trials:
    """The trials in a folder, with the key of what decides their scores in the first line.

    Raises AdaptError where the folder holds the trials of another search, or cannot be written.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / TRIALS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = _whole_lines(self.path)
            if lines and lines[0] != {"key": key}:
                raise AdaptError(
                    f"'{folder}' holds the trials of another search (other models, expression, ranges, roles or "
                    "texts); give a new folder"
                )
            _rewrite(self.path, lines or [{"key": key}])
        except OSError as error:
            raise AdaptError(f"cannot write to '{folder}': {error.strerror or error}") from error
        self._known = {_point(line["values"]): Trial(**line) for line in lines[1:]}

    def find(self, values: Mapping[str, float]) -> Trial | None:
        """The trial at these values, if there was one."""
        return self._known.get(_point(values))

    def add(self, trial: Trial) -> None:
        """Keep a trial, on the disk at once."""
        self._known[_point(trial.values)] = trial
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _point(values: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(values.items())


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the line that was being written when the process was killed
            break
    return lines


def _rewrite(path: Path, lines: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, path)
