"""A stage's `log.jsonl`: one JSON object a line, appended and flushed, readable while the stage runs."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities by their names, numpy's and torch's scalars as plain numbers."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return finite(value.item())
    return value


class Log:
    """Appends events to `path`; a line that a kill cut short is dropped when the file is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)

    def write(self, event: str, **numbers: Any) -> None:
        """Append one line: the time in seconds, the event's name, and its numbers."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **finite(numbers)}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self, event: str | None = None) -> list[dict[str, Any]]:
        """All whole lines so far, or those of one event; a line that is being written just now does not count."""
        lines = [json.loads(line) for line in self._lines()]
        return [line for line in lines if event in (None, line["event"])]

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps: the run goes on from a checkpoint at `step` and will write them again.

        -1 drops every step. Lines without a step stay.
        """
        lines = self._lines()
        kept = [line for line in lines if json.loads(line).get("step", step) <= step]
        if len(kept) < len(lines):
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(partial, self.path)

    def _lines(self) -> list[str]:
        """Whole lines. Not `splitlines`: texts in the log may hold U+2028 and the like, which it takes for ends."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        return [line for line in text.split("\n")[:-1] if line]


class Silent(Log):
    """The log of a process that writes nothing, beside one that does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **numbers: Any) -> None:
        """Nothing."""

    def read(self, event: str | None = None) -> list[dict[str, Any]]:
        """Nothing: what the log holds is for the process that writes it."""
        return []

    def rewind(self, step: int) -> None:
        """Nothing."""
