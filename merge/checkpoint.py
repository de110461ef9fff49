"""Checkpoints on disk: read lazily, tensor by tensor, from one safetensors file or from shards with an index."""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from merge.errors import MergeError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The element types of a safetensors file that a merge knows."""
_OPENING = threading.Lock()
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|bias)$")


def is_head(name: str) -> bool:
    """Whether a tensor is an output embedding's matrix."""
    return bool(_HEAD.search(name)) and name.endswith("weight")


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor: the file that holds it, its element type and shape, its first byte's place."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises MergeError where it is missing, broken or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MergeError(f"cannot read '{path}': {error}") from error
    if not isinstance(content, dict):
        raise MergeError(f"'{path}' holds no JSON object but a {type(content).__name__}")
    return content


def header_of(path: Path) -> dict[str, TensorInfo]:
    """What the header of a safetensors file says.

    Raises MergeError for a file that is cut short or whose header does not fit it, and for types that are no weights.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks that header and file fit each other
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise MergeError(f"'{path}' is cut short or broken: {error}") from error
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise MergeError(f"'{path}' holds '{name}' as {entry['dtype']}, which cannot be added or subtracted")
    return {
        name: TensorInfo(path, DTYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0])
        for name, e in entries.items()
    }


def _close(descriptors: dict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


class TensorFiles:
    """Tensors in safetensors files, of which any part can be read."""

    tensors: Mapping[str, TensorInfo]

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        weakref.finalize(self, _close, self._descriptors)

    def read(self, name: str, first: int, into: memoryview) -> None:
        """Copy a tensor's bytes from the `first` on into memory; any number of threads may do so at once.

        Raises MergeError where the file has become shorter than its header says.
        """
        info = self.tensors[name]
        descriptor = self._descriptors.get(info.file)
        if descriptor is None:
            with _OPENING:
                descriptor = self._descriptors.setdefault(info.file, os.open(info.file, os.O_RDONLY))
        place = info.start + first
        while into:
            count = os.preadv(descriptor, [into], place)
            if count == 0:
                raise MergeError(f"'{info.file}' is cut short: '{name}' is not all there")
            into, place = into[count:], place + count

    def close(self) -> None:
        """Close the files that `read` has opened."""
        _close(self._descriptors)


@dataclass
class Checkpoint(TensorFiles):
    """One model's folder. Opening it reads headers only; `tensor` maps a tensor's bytes, `read` copies some of them.

    Raises MergeError on opening for a folder without safetensors, an index that leads out of the folder or does not
    fit its shards, a shard that is cut short, and quantised weights.
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(init=False)
    tensors: Mapping[str, TensorInfo] = field(init=False)
    _files: dict[Path, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.config = read_json(self.folder / "config.json")
        if self.config.get("quantization_config"):
            raise MergeError(
                f"'{self.name}' is quantised; its weights cannot be added or subtracted, give the plain checkpoint"
            )
        self.tensors = self._headers()

    def _headers(self) -> dict[str, TensorInfo]:
        if (self.folder / SINGLE).exists():
            if (self.folder / INDEX).exists():
                raise MergeError(f"'{self.folder}' holds both {SINGLE} and {INDEX}: one of them is stale, remove it")
            return self._header(self.folder / SINGLE)
        if (self.folder / INDEX).exists():
            return self._sharded()
        pickled = next(self.folder.glob("pytorch_model*.bin"), None)
        hint = f", only pickled weights ({pickled.name}), which are not read" if pickled else ""
        raise MergeError(f"'{self.folder}' holds no {SINGLE} and no {INDEX}{hint}")

    def _sharded(self) -> dict[str, TensorInfo]:
        weight_map = read_json(self.folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise MergeError(f"'{self.folder / INDEX}' has no weight_map that says which shard holds each tensor")
        headers = {}
        for shard in sorted(set(weight_map.values())):
            if Path(shard).name != shard or shard in ("..", "."):
                raise MergeError(f"'{self.folder / INDEX}' names the shard '{shard}', which is not in its folder")
            headers[shard] = self._header(self.folder / shard)
        for name, shard in weight_map.items():
            if name not in headers[shard]:
                raise MergeError(f"'{self.folder / INDEX}' says that '{shard}' holds '{name}', but it does not")
        return {name: headers[shard][name] for name, shard in weight_map.items()}

    def _header(self, path: Path) -> dict[str, TensorInfo]:
        if not path.exists():
            raise MergeError(f"'{self.folder / INDEX}' names '{path.name}', which is missing")
        return header_of(path)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, mapped from the file. Raises MergeError where there is none."""
        if name not in self.tensors:
            raise MergeError(f"'{self.name}' has no tensor '{name}'")
        path = self.tensors[name].file
        with _OPENING:
            if path not in self._files:  # not before it is needed: torch maps the file as if it were to be written
                self._files[path] = safe_open(path, framework="pt")
        return self._files[path].get_tensor(name)

    @cached_property
    def embedding(self) -> str:
        """The name of the input embedding's matrix."""
        found = [name for name in self.tensors if _EMBEDDING.search(name)]
        if len(found) != 1:
            raise MergeError(f"'{self.name}' has {len(found)} input embeddings that are known as such, expected one")
        return found[0]

    @cached_property
    def head(self) -> str | None:
        """The name of the output embedding's matrix, or None where it is the input embedding (tied)."""
        found = [name for name in self.tensors if is_head(name)]
        if not found:
            return None
        if self.config.get("tie_word_embeddings"):
            if torch.equal(self.tensor(found[0]), self.tensor(self.embedding)):
                return None
            raise MergeError(
                f"'{self.name}' has a '{found[0]}' of its own, but its config.json says tie_word_embeddings: true; "
                "loaders would drop one of the two, set it to false"
            )
        return found[0]

    @property
    def height(self) -> int:
        """Rows of the embedding, padding rows included."""
        return self.tensors[self.embedding].shape[0]

    def is_vocabulary(self, name: str) -> bool:
        """Whether a tensor has one row for each token: input embedding, head, or the head's bias."""
        return bool(_EMBEDDING.search(name) or _HEAD.search(name))
