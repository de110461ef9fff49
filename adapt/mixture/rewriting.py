"""A plain checkpoint with some tensors changed, written tensor by tensor: only the one at work is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from adapt.checkpoints import load_config, load_model, local_folder
from adapt.methods.base import Trained, plain_model
from adapt.methods.export import write_plain
from adapt.methods.reloading import proven_logits
from adapt.methods.streaming import check_names, write_settings
from merge.checkpoint import Checkpoint
from merge.errors import MergeError
from merge.writer import Output, ShardWriter, shards, write_index

_SHARD = 5 << 30
"""Bytes of tensors in a file, at most."""


@dataclass(frozen=True)
class Change:
    """What becomes of a tensor: a function of its values in float32; the result is larger by `more` in each dimension,
    where that is given.
    """

    of: Callable[[torch.Tensor], torch.Tensor]
    more: tuple[int, ...] = ()

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(size + more for size, more in zip(before, self.more, strict=True)) if self.more else before


Changes = Mapping[str, Change]
"""By the names of tensors in the plain model."""


def rewrite(source: Checkpoint, changes: Changes, folder: Path) -> dict[str, str]:
    """Write a checkpoint's tensors with some of them changed, rounded once to their format; returns their hashes."""
    outputs = []
    for name, info in source.tensors.items():
        shape = changes[name].shape(info.shape) if name in changes else info.shape
        outputs.append(Output(name, info.dtype, shape))
    folder.mkdir(parents=True, exist_ok=True)
    files, hashes = shards(outputs, _SHARD), {}
    for file, group in files.items():
        writer = ShardWriter(folder / file, group)
        try:
            for output in group:
                data = _bytes(_made(source.tensor(output.name), changes.get(output.name), output))
                hashes[output.name] = xxhash.xxh3_128_hexdigest(data)
                writer.write(output.name, 0, data)
            writer.sync()
        finally:
            writer.close()
    write_index(folder, files)
    return hashes


def _made(tensor: torch.Tensor, change: Change | None, output: Output) -> torch.Tensor:
    if change is None:
        return tensor
    made = change.of(tensor.float()).to(output.dtype)
    if tuple(made.shape) != output.shape:
        raise ValueError(f"'{output.name}' became {list(made.shape)}, not {list(output.shape)}")
    return made.contiguous()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def write_changed(
    trained: Trained, changes: Changes, folder: Path, config: Any = None
) -> tuple[dict[str, Any], torch.Tensor]:
    """Write the base of a trained model with changes and with the rows that trained, load it back and compare.

    `config` is that of the result where its shapes are not the base's. Returns what to record and the written model's
    logits. A base that cannot be read tensor by tensor is held as a whole; `held_whole` then says why.
    """
    changes = {**changes, **_rows(trained)}
    try:
        source = Checkpoint("base", local_folder(trained.location))
        check_names(source, plain_model(trained.model))
    except MergeError as error:
        state = load_model(trained.location, torch.float32).state_dict()
        state |= {name: change.of(state[name].float()) for name, change in changes.items() if name in state}
        difference, logits = write_plain(state, trained, folder, config)
        return {"reload_difference": difference, "held_whole": str(error)}, logits
    hashes = rewrite(source, changes, folder)
    (config or load_config(trained.location)).save_pretrained(folder)
    write_settings(trained, folder)
    difference, logits = proven_logits(folder, hashes, trained.probe)
    return {"reload_difference": difference}, logits


def _rows(trained: Trained) -> dict[str, Change]:
    """The rows of embeddings that trained, under both names where the embeddings are tied."""
    tensors = trained.rows.tensors()
    ids = tensors.pop("ids", None)
    return {
        each: Change(lambda weight, rows=rows: weight.index_copy(0, ids, rows))
        for name, rows in tensors.items()
        for each in (name, *trained.rows.again)
    }
