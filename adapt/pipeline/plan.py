"""What a run would do with each stage, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.pipeline.folders import MANIFEST, STARTED, StageFolders
from adapt.pipeline.graph import Graph
from adapt.pipeline.hashes import HashCache
from adapt.pipeline.keys import Fingerprints, Keys, StageKey, differences
from adapt.pipeline.manifest import read_manifest, verify
from adapt.pipeline.record import material_of

Action = Literal["keep", "run", "resume", "finish"]
REVISIONS = "revisions.json"


@dataclass(frozen=True)
class Step:
    """One stage's place in a plan.

    `keep`: finished. `resume`: a partial folder with the same inputs is there. `finish`: the work is done, only the
    renaming is missing. `run`: from the beginning. `reason` says why.
    """

    name: str
    key: StageKey
    folders: StageFolders
    action: Action
    reason: str


@dataclass(frozen=True)
class StageStatus:
    """What is there of a stage. `key` and `folder` are None where `reason` says that an input cannot be read."""

    name: str
    kind: str
    state: Literal["done", "partial", "missing"]
    key: str | None
    folder: Path | None
    reason: str


def commits(graph: Graph) -> dict[str, str]:
    """The commits that earlier runs of this recipe took for its hub models, by `id@revision`."""
    path = graph.folder / REVISIONS
    return read_json(path) if path.exists() else {}


def forced_stages(graph: Graph, names: tuple[str, ...], force: frozenset[str]) -> dict[str, str]:
    """Why each of the stages that must be made again is: named itself, or reads one that is.

    Raises AdaptError for a name that is no stage of the plan.
    """
    for name in sorted(force):
        graph.stage(name)
        if name not in names:
            raise AdaptError(f"stage '{name}' is to be forced, but the run ends before it; leave out --until")
    reasons: dict[str, str] = {}
    for name in names:
        if name in force:
            reasons[name] = "forced"
        elif upstream := sorted(force & graph.upstream(name)):
            reasons[name] = f"depends on '{upstream[0]}', which is forced"
    return reasons


def decide(name: str, key: StageKey, folders: StageFolders, outcomes: Mapping[str, str | None], forced: str) -> Step:
    """What to do with a stage, given the outcomes of the stages that it reads (None: not made yet).

    A finished folder is kept while what it was made from still has the same content: a stage that was deleted or
    forced and came out the same moves nothing after it.
    """
    if forced:
        return Step(name, key, folders, "run", forced)
    if folders.finished.is_dir():
        manifest = read_manifest(folders.finished)
        other = _other_outcomes(manifest, outcomes)
        if other:
            return Step(name, key, folders, "run", f"stage '{other[0]}' was made again and came out differently")
        unknown = sorted(read for read, outcome in outcomes.items() if outcome is None)
        return Step(name, key, folders, "keep", f"unless '{unknown[0]}' comes out differently" if unknown else "")
    draft = read_draft(folders)
    if draft is not None and not _other_outcomes(draft, outcomes):
        if (folders.partial / MANIFEST).is_file():
            return Step(name, key, folders, "finish", "all done but the renaming")
        return Step(name, key, folders, "resume", "unfinished; goes on with what is there")
    return Step(name, key, folders, "run", why_new(key, folders))


def _other_outcomes(manifest: Mapping[str, Any], outcomes: Mapping[str, str | None]) -> list[str]:
    read = manifest.get("outcomes_read", {})
    return sorted(name for name, outcome in outcomes.items() if outcome is not None and read.get(name) != outcome)


def read_draft(folders: StageFolders) -> dict[str, Any] | None:
    """How the partial folder was started, or None where there is none, or a kill came before that was written."""
    try:
        draft = read_json(folders.partial / STARTED)
    except AdaptError:
        return None
    return draft if isinstance(draft, dict) else None


def why_new(key: StageKey, folders: StageFolders) -> str:
    """Why there is no finished folder: `new`, or what differs from the latest finished one."""
    manifests: list[dict[str, Any]] = []
    for folder in folders.others_finished():
        try:
            manifests.append(read_manifest(folder))
        except AdaptError:
            continue  # it is not this stage's folder, and only serves to explain
    if not manifests:
        return "new"
    latest = max(manifests, key=lambda manifest: str(manifest.get("times", {}).get("finished", "")))
    found = differences(material_of(latest), key.material)
    return "changed: " + ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def tentative(graph: Graph, keys: Keys, names: tuple[str, ...], forced: Mapping[str, str]) -> list[Step]:
    """The plan as it looks before anything runs. Raises AdaptError where a key cannot be worked out."""
    steps: list[Step] = []
    outcomes: dict[str, str | None] = {}
    for name in names:
        key = keys.of(name)
        folders = StageFolders(graph.folder / name, key.key)
        read = {upstream: outcomes[upstream] for upstream in graph.input_stages(name)}
        step = decide(name, key, folders, read, forced.get(name, ""))
        if step.action == "keep":
            manifest = read_manifest(folders.finished)
            verify(folders.finished, manifest)
            outcomes[name] = None if any(outcome is None for outcome in read.values()) else manifest["outcome"]
        else:
            outcomes[name] = None
        steps.append(step)
    return steps


def status(graph: Graph, until: str | None = None) -> list[StageStatus]:
    """What is there of each stage, in the order in which they run. Writes nothing under `runs/` but remembered hashes.

    An input that cannot be read (a missing file, a hub model that was never fetched) makes a stage `missing`, with the
    reason. A finished stage whose files are not whole is an AdaptError.
    """
    hashes = HashCache(graph.cache / "hashes.json")
    keys = Keys(graph, Fingerprints(graph, hashes, commits(graph), ask_hub=False))
    found: list[StageStatus] = []
    for name in graph.order(until):
        kind = keyed_kind(graph, name)
        try:
            key = keys.of(name)
        except AdaptError as error:
            found.append(StageStatus(name, kind, "missing", None, None, str(error)))
            continue
        folders = StageFolders(graph.folder / name, key.key)
        found.append(_status(name, kind, key, folders))
    if Path(graph.runs).is_dir():
        hashes.save()
    return found


def keyed_kind(graph: Graph, name: str) -> str:
    """The stage's kind as recipes write it."""
    stage = graph.stage(name)
    return str(getattr(stage, "kind", type(stage).__name__))


def _status(name: str, kind: str, key: StageKey, folders: StageFolders) -> StageStatus:
    if folders.finished.is_dir():
        verify(folders.finished, read_manifest(folders.finished))
        return StageStatus(name, kind, "done", key.key, folders.finished, "")
    if read_draft(folders) is not None:
        return StageStatus(name, kind, "partial", key.key, folders.partial, "unfinished")
    return StageStatus(name, kind, "missing", key.key, folders.finished, why_new(key, folders))
