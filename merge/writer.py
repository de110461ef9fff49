"""Writing safetensors in any order: the header first, then each tensor's bytes at their place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from merge.checkpoint import DTYPES, INDEX, SINGLE

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Output:
    """A tensor to write."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def shards(outputs: Sequence[Output], limit: int) -> dict[str, list[Output]]:
    """Files of at most `limit` bytes of tensors (a larger tensor has a file of its own), in the order given."""
    groups: list[list[Output]] = [[]]
    for output in outputs:
        if groups[-1] and sum(item.size for item in groups[-1]) + output.size > limit:
            groups.append([])
        groups[-1].append(output)
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{rank:05d}-of-{len(groups):05d}.safetensors": group for rank, group in enumerate(groups, 1)}


def write_index(folder: Path, files: dict[str, list[Output]]) -> None:
    """The index of a sharded checkpoint; a single file has none."""
    if len(files) == 1:
        return
    index = {
        "metadata": {"total_size": sum(output.size for group in files.values() for output in group)},
        "weight_map": {output.name: name for name, group in files.items() for output in group},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class ShardWriter:
    """One safetensors file of known contents; its tensors may be written in any order, by any number of threads."""

    def __init__(self, path: Path, outputs: Sequence[Output]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        self.places: dict[str, int] = {}
        self.sizes = {output.name: output.size for output in outputs}
        for output in outputs:
            offsets = [start, start + output.size]
            header[output.name] = {"dtype": _NAMES[output.dtype], "shape": list(output.shape), "data_offsets": offsets}
            self.places[output.name] = start
            start = offsets[1]
        text = json.dumps(header, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % 8)  # the format wants the data aligned
        head = len(text).to_bytes(8, "little") + text
        self.places = {name: len(head) + place for name, place in self.places.items()}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.posix_fallocate(self._file, 0, len(head) + start)  # a full disk is met here; and writing is faster so
        self._put(head, 0)

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """Put bytes of a tensor at their place."""
        self._put(data, self.places[name] + offset)

    def read(self, name: str, offset: int, into: memoryview) -> None:
        """Bytes of a tensor as they lie in the file."""
        os.preadv(self._file, [into], self.places[name] + offset)

    def _put(self, data: bytes | memoryview, place: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file, view, place)
            view, place = view[done:], place + done

    def sync(self) -> None:
        """Force the file to disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
