"""Writing safetensors as a stream: the header first, then the tensors' bytes block by block."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
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
    """One safetensors file, written in the order of its header; `close` forces it to disk."""

    def __init__(self, path: Path, outputs: Sequence[Output]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        start = 0
        for output in outputs:
            offsets = [start, start + output.size]
            header[output.name] = {"dtype": _NAMES[output.dtype], "shape": list(output.shape), "data_offsets": offsets}
            start = offsets[1]
        text = json.dumps(header, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % 8)  # the format wants the data aligned
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, blocks: Iterator[torch.Tensor]) -> None:
        """Append a tensor's blocks, in order."""
        for block in blocks:
            self._file.write(memoryview(block.contiguous().reshape(-1).view(torch.uint8).numpy()))

    def close(self) -> None:
        """Force the file to disk and close it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
