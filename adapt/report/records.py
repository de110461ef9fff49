"""What is read of a stage: its manifest and its log, as far as they are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adapt.display import duration_text

State = Literal["finished", "unfinished", "missing"]


@dataclass(frozen=True)
class Record:
    """One stage as its folder shows it. A stage that has not finished has no metrics, but it may have a log."""

    name: str
    folder: Path
    state: State
    manifest: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The stage's settings."""
        return self.manifest.get("settings") or {}

    @property
    def metrics(self) -> Mapping[str, Any]:
        """What the stage measured."""
        return self.manifest.get("metrics") or {}

    @property
    def kind(self) -> str:
        """The kind of stage, or an empty string where nothing says it."""
        return str(self.manifest.get("kind") or self.settings.get("kind") or "")

    @property
    def key(self) -> str:
        """The stage's content key."""
        return str(self.manifest.get("key") or self.folder.name.removesuffix(".partial"))

    @property
    def seconds(self) -> float | None:
        """How long the stage took: what the manifest says, else what the log spans."""
        measured = (self.manifest.get("times") or {}).get("seconds", self.metrics.get("seconds"))
        if measured is not None:
            return float(measured)
        times = [event["time"] for event in self.events if "time" in event]
        return times[-1] - times[0] if len(times) > 1 else None

    @property
    def time(self) -> str:
        """The same in words; empty where it is not known."""
        return "" if self.seconds is None else duration_text(self.seconds)

    def log(self, event: str) -> list[Mapping[str, Any]]:
        """The log's lines of one event."""
        return [line for line in self.events if line.get("event") == event]


def read_record(name: str, folder: Path) -> Record:
    """Read a stage's folder: finished, unfinished (`<key>.partial`, which knows how it was started), or not there."""
    folder = Path(folder)
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        if not partial.is_dir():
            return Record(name, folder, "missing")
        folder = partial
    finished = (folder / "manifest.json").is_file() and not folder.name.endswith(".partial")
    manifest = _json(folder / ("manifest.json" if finished else "started.json"))
    return Record(name, folder, "finished" if finished else "unfinished", manifest, _events(folder / "log.jsonl"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # a report on a run that failed shows what there is


def _events(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.exists():
        return ()
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line that a kill cut short
        if isinstance(event, dict):
            events.append(event)
    return tuple(events)
