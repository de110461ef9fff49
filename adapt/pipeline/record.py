"""What is written about a stage: how it was started (kept with the unfinished work), and how it ended."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt.log import finite
from adapt.pipeline.folders import STARTED
from adapt.pipeline.graph import Graph
from adapt.pipeline.keys import StageKey
from adapt.pipeline.manifest import FORMAT, hardware, list_files, now, outcome_of, packages


def draft(
    graph: Graph, name: str, key: StageKey, outcomes: Mapping[str, str], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The first part of the manifest, known when a stage starts or goes on.

    `settings` without the fields in `unkeyed`, `inputs`, kind, version and seed are all that the key covers;
    `outcomes_read` tells which making of the stages before it was read.
    """
    stage, material = graph.stage(name), key.material
    sessions = list(earlier["sessions"]) if earlier else []
    return {
        "format": FORMAT,
        "recipe": graph.recipe,
        "stage": name,
        "kind": material["kind"],
        "key": key.key,
        "version": material["version"],
        "seed": graph.seed,
        "settings": finite(stage.model_dump(mode="json")),
        "unkeyed": sorted(stage.unkeyed),
        "inputs": material["inputs"],
        "models": {model: graph.models[model].path for model in graph.input_models(name)},
        "sources": {
            source: finite(graph.sources[source].model_dump(mode="json")) for source in graph.input_sources(name)
        },
        "outcomes_read": dict(outcomes),
        "sessions": [*sessions, {"started": now(), "clock": time.time()}],
    }


def material_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier folder's key covered."""
    unkeyed = manifest.get("unkeyed", [])
    settings = {name: value for name, value in manifest.get("settings", {}).items() if name not in unkeyed}
    return {**{name: manifest.get(name) for name in ("kind", "version", "seed", "inputs")}, "settings": settings}


def close_killed_session(started: dict[str, Any], partial: Path) -> dict[str, Any]:
    """Give a session that was killed the length that its last written file shows: it could not say so itself."""
    last = started["sessions"][-1]
    if "seconds" not in last:
        paths = [path for path in partial.rglob("*") if path.is_file() and path.name != STARTED]
        written = max((os.stat(path).st_mtime for path in paths), default=last["clock"])
        last["seconds"] = round(max(0.0, written - last["clock"]), 1)
    return started


def completed(started: Mapping[str, Any], metrics: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The whole manifest: what was known at the start, then machine, times, metrics and files with their hashes."""
    sessions = [dict(session) for session in started["sessions"]]
    sessions[-1]["seconds"] = round(time.time() - sessions[-1]["clock"], 1)
    files = list_files(folder)
    return {
        **{name: value for name, value in started.items() if name != "sessions"},
        "packages": packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "times": {
            "started": sessions[0]["started"],
            "finished": now(),
            "seconds": round(sum(session["seconds"] for session in sessions), 1),
            "sessions": [{"started": session["started"], "seconds": session["seconds"]} for session in sessions],
        },
        "metrics": finite(dict(metrics)),
        "outcome": outcome_of(files),
        "files": files,
    }
