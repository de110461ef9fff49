"""Checkpoints on disk: read lazily, tensor by tensor, from one safetensors file or from shards with an index."""

from __future__ import annotations

import json
import re
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
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.(weight|bias)$")


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor: the file that holds it, its element type and shape."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]


def read_json(path: Path) -> Any:
    """A JSON file. Raises MergeError where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MergeError(f"cannot read '{path}': {error}") from error


@dataclass
class Checkpoint:
    """One model's folder. Opening it reads headers only; `tensor` maps a tensor's bytes, it does not copy them.

    Raises MergeError on opening for a folder without safetensors, an index that leads out of the folder or does not
    fit its shards, a shard that is cut short, and quantised weights.
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(init=False)
    tensors: Mapping[str, TensorInfo] = field(init=False)
    _files: dict[Path, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
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
        weight_map = read_json(self.folder / INDEX)["weight_map"]
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
        try:
            file = self._files[path] = safe_open(path, framework="pt")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise MergeError(f"'{path}' is cut short or broken: {error}") from error
        unknown = [name for name, part in slices.items() if part.get_dtype() not in DTYPES]
        if unknown:
            kind = slices[unknown[0]].get_dtype()
            raise MergeError(f"'{path}' holds '{unknown[0]}' as {kind}, which cannot be added or subtracted")
        return {
            name: TensorInfo(path, DTYPES[part.get_dtype()], tuple(part.get_shape())) for name, part in slices.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, mapped from the file. Raises MergeError where there is none."""
        if name not in self.tensors:
            raise MergeError(f"'{self.name}' has no tensor '{name}'")
        return self._files[self.tensors[name].file].get_tensor(name)

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
        found = [name for name in self.tensors if _HEAD.search(name) and name.endswith("weight")]
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
