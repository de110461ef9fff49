"""What lies below `runs/`: every stage's folders, what they are, what is needed of them, and what may go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.pipeline.folders import MANIFEST, STARTED, bytes_below, remove, write_json
from adapt.pipeline.graph import Graph
from adapt.pipeline.lock import RunLock

State = Literal["finished", "unfinished", "replaced"]
CURRENT = "current.json"
"""Beside the stages' folders: the keys of the last run, and the recipe that it came from."""
_STATES: dict[str, State] = {".partial": "unfinished", ".replaced": "replaced", ".deleted": "replaced"}


@dataclass(frozen=True)
class StageFolder:
    """One folder of one stage: `<recipe>/<stage>/<key>`, with or without a suffix that says its state."""

    path: Path
    state: State
    manifest: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def recipe(self) -> str:
        """The recipe's name, which the folder of the run bears."""
        return self.path.parent.parent.name

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.path.parent.name

    @property
    def key(self) -> str:
        """The stage's key."""
        return self.path.name.split(".")[0]

    @property
    def when(self) -> str:
        """When it was finished, or started if it is not; empty where nothing says it."""
        sessions = self.manifest.get("sessions") or [{}]
        times = self.manifest.get("times") or {}
        return str(times.get("finished") or sessions[-1].get("started") or "")

    @cached_property
    def size(self) -> int:
        """Bytes of all its files."""
        return bytes_below(self.path)


def stage_folders(folder: Path) -> list[StageFolder]:
    """The stages' folders at or below a folder: all runs', one run's, one stage's, or the one that it is."""
    folder = Path(folder)
    found = [folder] if _is_stage_folder(folder) else []
    for pattern in ("*", "*/*", "*/*/*"):
        found = found or sorted(path for path in folder.glob(pattern) if _is_stage_folder(path))
    return [_read(path) for path in found]


def _is_stage_folder(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in (MANIFEST, STARTED))


def _read(path: Path) -> StageFolder:
    path = path.absolute() if len(path.parts) < 3 else path
    state = _STATES.get(path.suffix, "finished" if (path / MANIFEST).is_file() else "unfinished")
    name = MANIFEST if (path / MANIFEST).is_file() else STARTED
    try:
        manifest = read_json(path / name)
    except AdaptError:
        manifest = {}  # a list shows what there is
    return StageFolder(path, state, manifest if isinstance(manifest, dict) else {})


def newest(folders: Iterable[StageFolder]) -> dict[str, StageFolder]:
    """The latest finished folder of each stage, in the order in which they were finished."""
    finished = sorted((folder for folder in folders if folder.state == "finished"), key=lambda folder: folder.when)
    latest = {(folder.recipe, folder.stage): folder for folder in finished}
    return {folder.stage: folder for folder in sorted(latest.values(), key=lambda folder: folder.when)}


def current_keys(run: Path) -> dict[str, str] | None:
    """The keys of the last run by stage, in the recipe's order, or None where none is noted."""
    noted = _current(run)
    return None if noted is None else dict(noted["stages"])


def _current(run: Path) -> dict[str, Any] | None:
    try:
        noted = read_json(run / CURRENT)
    except AdaptError:
        return None
    return noted if isinstance(noted, dict) and isinstance(noted.get("stages"), dict) else None


def description(run: Path) -> str:
    """What the recipe of a run said that it is for."""
    return str((_current(run) or {}).get("description", ""))


def note_current(graph: Graph, keys: Mapping[str, str]) -> None:
    """Note the keys of this run beside those of the recipe's other stages from before, and what the recipe is for."""
    noted = _current(graph.folder)
    before = {} if noted is None else noted["stages"]
    merged = {name: keys.get(name, before.get(name)) for name in graph.stages}
    stages = {name: key for name, key in merged.items() if key is not None}
    file = None if graph.file is None else os.path.relpath(graph.file)
    value = {"recipe": graph.recipe, "file": file, "description": graph.description, "stages": stages}
    if value != noted:
        write_json(graph.folder / CURRENT, value)


def recipe_file(run: Path) -> Path | None:
    """The recipe that a run came from, where it is still there, seen from the working directory."""
    file = (_current(run) or {}).get("file")
    return Path(file) if file and Path(file).is_file() else None


@dataclass(frozen=True)
class Doomed:
    """A folder that nothing needs, and why."""

    folder: StageFolder
    reason: str


def prunable(
    folders: Iterable[StageFolder], everywhere: Iterable[StageFolder], current: Mapping[Path, Mapping[str, set[str]]]
) -> Iterator[Doomed]:
    """The folders that no current recipe needs: replaced ones, unfinished or finished ones with other keys.

    `current` gives the needed keys by run and stage; for a run that is not in it, those of the latest finished folder
    of each stage are. What a finished folder of `everywhere` read as a model (`recipe.yaml#stage`) is needed, whatever
    its key.
    """
    folders = list(folders)
    used = {path for folder in everywhere if folder.state == "finished" for path in _models_read(folder)}
    for run in dict.fromkeys(folder.path.parent.parent for folder in folders):
        own = [folder for folder in folders if folder.path.parent.parent == run]
        keys = current.get(run) or {name: {folder.key} for name, folder in newest(own).items()}
        for folder in own:
            reason = _reason(folder, keys, used, run in current)
            if reason is not None:
                yield Doomed(folder, reason)


def _models_read(folder: StageFolder) -> Iterator[Path]:
    """The stages' folders whose models a stage read."""
    for path in (folder.manifest.get("models") or {}).values():
        yield Path(path).absolute().parent


def _reason(folder: StageFolder, keys: Mapping[str, set[str]], used: set[Path], noted: bool) -> str | None:
    if folder.path.absolute() in used:
        return None
    if folder.path.suffix == ".deleted":
        return "half deleted"
    if folder.key in keys.get(folder.stage, ()):
        newer = folder.state == "replaced" and folder.path.with_name(folder.key).is_dir()
        return "replaced by a newer one" if newer else None
    if not noted:
        kept = keys.get(folder.stage, set())
        if folder.state == "unfinished" or not kept:
            return None  # nobody knows whether the next run would go on with it
        return f"the run noted no keys (an older version): of this stage only the newest stays, {min(kept)}"
    what = "unfinished, " if folder.state == "unfinished" else ""
    return what + ("made with other settings" if folder.stage in keys else "the recipe has no such stage any more")


def prune(doomed: Iterable[Doomed]) -> int:
    """Delete the folders, each run's under its lock; returns the bytes that were freed.

    Raises AdaptError, before anything of that run is deleted, where it is being run just now.
    """
    doomed, freed = list(doomed), 0
    for run in dict.fromkeys(one.folder.path.parent.parent for one in doomed):
        with RunLock(run):
            for one in doomed:
                if one.folder.path.parent.parent == run:
                    size = one.folder.size
                    remove(one.folder.path)
                    freed += size
    return freed
