"""Hashes of a merged folder and of its inputs, taken again and held against `merge.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import xxhash

from merge.adapters import Adapter, is_adapter
from merge.checkpoint import Checkpoint, TensorFiles, read_json
from merge.errors import MergeError
from merge.hashes import fingerprint, of_bytes


def verify(folder: str | Path) -> Iterator[str]:
    """A line for the output and for each input; inputs that are gone are said to be so.

    Raises MergeError where a folder has no `merge.json`, and at the first tensor that is not what it was.
    """
    folder = Path(folder)
    if not (folder / "merge.json").exists():
        raise MergeError(f"'{folder}' has no merge.json, so it is no folder that a merge wrote")
    record = read_json(folder / "merge.json")
    expected = record["output"]["tensors"]
    found = tensor_hashes(Checkpoint("output", folder))
    for name in sorted(set(expected) | set(found)):
        if expected.get(name) != found.get(name):
            state = "is missing" if name not in found else "is new" if name not in expected else "has other bytes"
            raise MergeError(f"'{folder}': '{name}' {state} than when it was written; merge again or get a whole copy")
    yield f"{folder}: {len(found)} tensors are as they were written ({fingerprint(found)})"
    for name, entry in record["inputs"].items():
        yield _input(name, Path(entry["folder"]), entry["fingerprint"], entry.get("files") or {})


def _input(name: str, folder: Path, expected: str, files: Mapping[str, str]) -> str:
    if not folder.is_dir():
        return f"{name}: '{folder}' is not here, not checked"
    source = Adapter(name, folder) if is_adapter(folder) else Checkpoint(name, folder)
    if fingerprint(tensor_hashes(source)) != expected:
        raise MergeError(f"'{folder}' is not the '{name}' that was merged: its weights have changed since")
    for file, hashed in files.items():
        if not (folder / file).is_file() or file_hash(folder / file) != hashed:
            raise MergeError(f"'{folder / file}' is not what was merged: it has changed since, or is gone")
    return f"{name}: '{folder}' is what was merged"


def file_hash(path: Path) -> str:
    """The hash of a file that is an input beside the weights (`files` of an input in `merge.json`)."""
    running = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(2**22):
            running.update(part)
    return running.hexdigest()


def tensor_hashes(model: TensorFiles) -> dict[str, str]:
    """The hash of every tensor of a checkpoint or an adapter."""
    try:
        return {name: of_bytes(partial(model.read, name), info.size) for name, info in model.tensors.items()}
    finally:
        model.close()
