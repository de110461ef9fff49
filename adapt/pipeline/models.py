"""What identifies a model that a stage reads: the bytes of a local folder, or the commit of a hub repository."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.pipeline.hashes import HashCache, digest_of

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation

_READ_BY_TRANSFORMERS = {".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken"}
_PICKLED = ("pytorch_model*.bin", "adapter_model*.bin")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_files(folder: Path, remote_code: bool = False) -> list[Path]:
    """The files of a checkpoint that decide what is loaded: weights, configurations, tokenizer, template, code."""
    suffixes = _READ_BY_TRANSFORMERS | ({".py"} if remote_code else set())
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file())


def folder_fingerprint(folder: Path, hashes: HashCache, remote_code: bool = False) -> str:
    """A hash over the names and contents of a checkpoint's files. Where the folder lies does not matter.

    Raises AdaptError for a folder without a configuration or with a shard that is missing or cut short.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json", "mixture.json")):
        raise AdaptError(f"'{folder}' is not a checkpoint: it has no config.json")
    check_shards(folder)
    files = model_files(folder, remote_code)
    return digest_of(f"{path.relative_to(folder).as_posix()} {hashes.sha256(path)}" for path in files)


def check_shards(folder: Path) -> None:
    """Raise AdaptError, with the file, for a shard that leaves the folder, is missing or not whole, and for pickles."""
    pickled = next((path for name in _PICKLED for path in sorted(folder.glob(name))), None)
    if pickled is not None and not any(folder.glob("*.safetensors")):
        raise AdaptError(
            f"'{folder}' holds only pickled weights ({pickled.name}), which are not read; convert them to safetensors"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for name in sorted(set(_weight_map(index).values())):
            if Path(name).name != name or name == "..":
                raise AdaptError(f"'{index}' names the shard '{name}', which lies outside of its folder; refused")
            if not (folder / name).is_file():
                raise AdaptError(f"'{folder}' lacks the shard '{name}' that its index names; fetch the model again")
    for path in sorted(folder.glob("*.safetensors")):
        _check_shard(path)


def _weight_map(index: Path) -> dict[str, str]:
    weights = read_json(index)
    if not isinstance(weights, dict) or not isinstance(weights.get("weight_map"), dict):
        raise AdaptError(f"'{index}' is no index of shards: it has no 'weight_map'")
    return {str(tensor): str(name) for tensor, name in weights["weight_map"].items()}


def _check_shard(path: Path) -> None:
    """A safetensors file is 8 bytes of header length, a JSON header, and exactly the bytes that the header promises."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length)) if length < size else None
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        promised = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (struct.error, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise AdaptError(f"'{path}' is not a whole safetensors file ({size:,} bytes); fetch the model again") from error
    if promised != size:
        raise AdaptError(
            f"'{path}' has {size:,} bytes, but its header promises {promised:,}; it was cut short or changed: "
            "fetch the model again"
        )


def hub_commit(location: ModelLocation, known: Mapping[str, str], ask: bool = True) -> str:
    """The commit that a hub id and revision mean: as noted for this recipe, else in the local cache, else on the hub.

    A branch moves; once resolved it is noted beside the recipe's folders, so that the next run means the same weights.
    `ask=False` does without the network. Raises AdaptError where the commit cannot be found.
    """
    if not _HUB_ID.fullmatch(location.path):
        raise AdaptError(f"there is no model folder '{location.path}'")
    if location.revision and _COMMIT.fullmatch(location.revision):
        return location.revision
    return known.get(hub_name(location)) or _cached_commit(location) or _asked_commit(location, ask)


def hub_name(location: ModelLocation) -> str:
    """`id@revision`, under which a commit is noted."""
    return f"{location.path}@{location.revision or 'main'}"


def _cached_commit(location: ModelLocation) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(location.path, "config.json", revision=location.revision)
    return Path(path).parent.name if isinstance(path, str) else None


def _asked_commit(location: ModelLocation, ask: bool) -> str:
    from huggingface_hub import model_info

    missing = f"model '{hub_name(location)}' is neither a folder nor in the local hub cache"
    if not ask:
        raise AdaptError(f"{missing} yet")
    try:
        commit = model_info(location.path, revision=location.revision).sha
    except Exception as error:  # whatever the network, the HTTP library or the hub raises means the same here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdaptError(f"{missing}, and the hub does not give it: {reason}") from error
    if not commit:
        raise AdaptError(f"the hub names no commit for '{hub_name(location)}'")
    return commit


def pinned(location: ModelLocation, commit: str) -> ModelLocation:
    """The same repository at exactly that commit, so that what was hashed is what a stage loads."""
    return replace(location, revision=commit)
