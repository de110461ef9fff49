"""A stage's `log.jsonl`: one JSON object a line, appended and flushed, readable while the stage runs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, written as their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class Log:
    """Appends events to `path`; a line that a kill cut short is dropped when the file is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            self.path.write_bytes(data[: data.rfind(b"\n") + 1])

    def write(self, event: str, **numbers: Any) -> None:
        """Append one line: the time in seconds, the event's name, and its numbers."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **finite(numbers)}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self, event: str | None = None) -> list[dict[str, Any]]:
        """All lines so far, or those of one event."""
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line]
        return [line for line in lines if event in (None, line["event"])]
