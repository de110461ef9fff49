"""A stage's key: the hash of all that decides what the stage makes.

It covers the stage's kind and the version of its code, its settings with every default written out, the recipe's seed,
the keys of the stages that it reads, the content of the models that it reads (files of a folder, commit of a hub id),
the content of its sources with the settings that say how it is read, and of the files that its own settings name.

Not in the key: the stage's own name, and where a model's or a source's files lie. In the key: the names by which a
stage refers to its sources and models, because they stand in what it writes, and the order in which a mapping is
written, because it may decide between equals.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt.errors import AdaptError
from adapt.log import finite
from adapt.pipeline.hashes import HashCache, digest_of
from adapt.pipeline.models import folder_fingerprint, hub_commit, hub_name, pinned

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.pipeline.graph import Graph
    from adapt.stages.base import Stage

KEY_LENGTH = 12
T = TypeVar("T")


@dataclass(frozen=True)
class StageKey:
    """The key as folders show it, and what it was made from."""

    key: str
    material: dict[str, Any]


def keyed_settings(stage: Stage) -> dict[str, Any]:
    """The stage's settings that decide what it makes, as plain JSON data."""
    return finite(stage.model_dump(mode="json", exclude=set(stage.unkeyed)))


def key_of(material: dict[str, Any]) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the material's JSON."""
    return digest_of([json.dumps(material, ensure_ascii=False, separators=(",", ":"))])[:KEY_LENGTH]


class Fingerprints:
    """Content of the recipe's models and sources, each looked at once; and hub models pinned to their commit."""

    def __init__(self, graph: Graph, hashes: HashCache, commits: dict[str, str], ask_hub: bool = True) -> None:
        self._graph, self._hashes, self._ask_hub = graph, hashes, ask_hub
        self.commits = commits
        self._models: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._sources: dict[str, Any] = {}

    def model(self, name: str) -> str:
        """What identifies the model: `sha256:...` of its files, or `id@commit`."""
        return self._once(self._models, name, self._model, "model")

    def source(self, name: str) -> dict[str, Any]:
        """The hash of the source's content, and the settings that say how it is read; not where it lies."""
        return self._once(self._sources, name, self._source, "source")

    def file(self, path: Path) -> str:
        """The hash of a file that a stage's settings name."""
        return self._once(self._files, str(path), lambda name: self._hashes.sha256(Path(name)), "file")

    def location(self, name: str) -> ModelLocation:
        """Where the model lies; a hub id with the commit that was fingerprinted."""
        location = self._graph.models[name]
        return location if location.folder else pinned(location, self._commit(location))

    def _commit(self, location: ModelLocation) -> str:
        commit = hub_commit(location, self.commits, self._ask_hub)
        return self.commits.setdefault(hub_name(location), commit)

    def _model(self, name: str) -> str:
        location = self._graph.models[name]
        if location.folder:
            return f"sha256:{folder_fingerprint(location.folder, self._hashes, location.trust_remote_code)}"
        return f"{location.path}@{self._commit(location)}"

    def _source(self, name: str) -> dict[str, Any]:
        source = self._graph.sources[name]
        settings = source.model_dump(mode="json", exclude={source.key})
        return {"settings": finite(settings), "content": source.fingerprint()}

    @staticmethod
    def _once(known: dict[str, T], name: str, look: Callable[[str], T], what: str) -> T:
        if name not in known:
            try:
                known[name] = look(name)
            except OSError as error:
                raise AdaptError(
                    f"{what} '{name}' cannot be read: {error.strerror or error}: {error.filename}"
                ) from error
            except AdaptError as error:
                raise AdaptError(f"{what} '{name}': {error}") from error
        return known[name]


class Keys:
    """Keys of a graph's stages, each worked out when it is asked for."""

    def __init__(self, graph: Graph, fingerprints: Fingerprints) -> None:
        self._graph, self.fingerprints = graph, fingerprints
        self._known: dict[str, StageKey] = {}

    def of(self, name: str) -> StageKey:
        """The stage's key. Raises AdaptError where a model or source that it depends on cannot be read."""
        if name not in self._known:
            material = self._material(name)
            self._known[name] = StageKey(key_of(material), material)
        return self._known[name]

    def _material(self, name: str) -> dict[str, Any]:
        graph, stage = self._graph, self._graph.stage(name)
        settings = keyed_settings(stage)
        files = {str(path): self.fingerprints.file(path) for path in sorted(stage.files())}
        return {
            "kind": settings.get("kind", type(stage).__name__),
            "version": stage.version,
            "seed": graph.seed,
            "settings": settings,
            "inputs": {
                "stages": {read: self.of(read).key for read in sorted(graph.input_stages(name))},
                "models": {read: self.fingerprints.model(read) for read in sorted(graph.input_models(name))},
                "sources": {read: self.fingerprints.source(read) for read in sorted(graph.input_sources(name))},
                **({"files": files} if files else {}),
            },
        }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two stages' key material, in words, for the answer to "why does this run again?"."""
    found = [
        f"{what} {old.get(what)} → {new[what]}" for what in ("kind", "version", "seed") if old.get(what) != new[what]
    ]
    before, after = _flat(old.get("settings", {})), _flat(new["settings"])
    for key in dict.fromkeys((*after, *before)):
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            found.append(f"{key} {_shown(before, key)} → {_shown(after, key)}")
    for what, label in (("sources", "source"), ("models", "model"), ("stages", "stage"), ("files", "file")):
        was, now = (old.get("inputs") or {}).get(what, {}), new["inputs"].get(what, {})
        found += [f"{label} '{name}' changed" for name in now if name in was and was[name] != now[name]]
    return found


_ABSENT = object()


def _shown(values: dict[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "(none)"
    return text if len(text) <= 60 else text[:57] + "..."


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
