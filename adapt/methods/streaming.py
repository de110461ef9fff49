"""From what trained to a plain checkpoint, tensor by tensor: the merge engine sums, rounds once and writes.

A base of which no tensor has another name on the disk than in memory is never held as a whole: each of its tensors is
read, changed and written in blocks, in float32 (in float64 where it is stored in float32). Only the proof that the
result loads holds it, once, in its stored format.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import ModelLocation, load_config, load_model, local_folder, read_json
from adapt.errors import AdaptError
from adapt.methods.adapter import with_rows_file
from adapt.methods.base import Trained, plain_model
from adapt.methods.export import plain_logits, put_rows, rounded_model, write_plain
from adapt.methods.live_base import Live, LiveBase
from adapt.methods.reloading import loaded_logits, proven_logits
from adapt.training.rows import VOCABULARY_FILE
from merge.checkpoint import Checkpoint
from merge.engine import unfinished, write
from merge.errors import MergeError
from merge.planning import Merge, prepare

if TYPE_CHECKING:
    from adapt.methods.low_rank.updates import Updates

BASE, ADAPTER = "base", "adapter"
_INSIDE = (".base_layer.", ".base.", ".ffn.")
"""What stands in the names of layers that peft, a mixture of LoRA or of domain adapters has put something beside."""


class Stored(Mapping[str, torch.Tensor]):
    """The weights of a base in the format in which they are stored; loaded when one is first asked for."""

    def __init__(self, location: ModelLocation) -> None:
        self.location = location

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """All of them."""
        return load_model(self.location).state_dict()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Sum:
    """What a checkpoint is made of: the base, tensors of the live model in it, the rows that trained, an adapter.

    `adapter` is a peft folder and `updates` are what lies in it.
    """

    trained: Trained
    live: Live = field(default_factory=dict)
    adapter: Path | None = None
    updates: Updates | None = None

    def plan(self) -> Merge:
        """The sum as a merge. Raises MergeError for a base or an adapter that cannot be read tensor by tensor."""
        folders = {BASE: local_folder(self.trained.location)} | ({ADAPTER: self.adapter} if self.adapter else {})
        merge = prepare(" + ".join(folders), folders)
        check_names(merge.anchor, plain_model(self.trained.model), self.updates)
        rows = self.trained.rows.tensors()
        ids = rows.pop("ids", torch.tensor([], dtype=torch.long))
        base = LiveBase(merge.anchor, self.live, ids, rows)
        return replace(_row_by_row(merge), adapters={**merge.adapters, BASE: base})

    def state(self) -> dict[str, torch.Tensor]:
        """The sum as a whole, in float32."""
        state = load_model(self.trained.location, torch.float32).state_dict()
        state |= {name: make().float().cpu() for name, make in self.live.items()}
        return put_rows(self.updates.merged(state) if self.updates else state, self.trained)


def _row_by_row(merge: Merge) -> Merge:
    """Each row of the result is the base's of the same number: there is one vocabulary."""
    own = torch.arange(merge.rows.height)
    rows = replace(merge.rows, sources={BASE: own}, exact=torch.zeros(len(own), dtype=torch.bool))
    return replace(merge, rows=rows, roles=replace(merge.roles, special_from=None))


def check_names(base: Checkpoint, model: Any, updates: Updates | None = None) -> None:
    """Raise MergeError where a tensor on the disk is none of the model in memory, or is stored the other way round."""
    names = set(model.state_dict())
    there = names.union(*({name.replace(inside, ".") for name in names} for inside in _INSIDE))
    renamed = next((name for name in base.tensors if name not in there), None)
    if renamed is not None:
        raise MergeError(f"'{renamed}' on the disk has another name or shape in memory")
    if updates is not None and updates.transposed:
        raise MergeError(f"'{min(updates.transposed)}' stores [in, out]")


def write_sum(parts: Sum, folder: Path) -> tuple[dict[str, Any], torch.Tensor]:
    """Write the checkpoint, load it back and compare; returns what to record and the written model's logits.

    Where the base cannot be read tensor by tensor the sum is taken in memory; `held_whole` then says why.
    """
    try:
        merge = parts.plan()
    except MergeError as error:
        difference, logits = write_plain(parts.state(), parts.trained, folder)
        return {"reload_difference": difference, "held_whole": str(error)}, logits
    hashes = _stream(merge, folder)
    _write_beside(parts, folder)
    difference, logits = proven_logits(folder, hashes, parts.trained.probe)
    return {"reload_difference": difference}, logits


def logits_of_sum(parts: Sum, folder: Path) -> torch.Tensor:
    """Logits of the checkpoint that the sum would be; it is written to `folder`, loaded, and removed again."""
    try:
        merge = parts.plan()
    except MergeError:
        return plain_logits(rounded_model(parts.state(), parts.trained), parts.trained)
    try:
        _stream(merge, folder)
        return loaded_logits(folder, parts.trained.probe)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stream(merge: Merge, folder: Path) -> Mapping[str, str]:
    """Write a plan; returns the hash of each tensor. What another run has left unfinished is of another training.

    Raises AdaptError for a full disk and for values that the stored format cannot hold.
    """
    for stale in (folder, unfinished(folder)):
        shutil.rmtree(stale, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        record = write(merge, folder)
    except MergeError as error:
        raise AdaptError(str(error)) from error
    return record["output"]["tensors"]


def write_settings(trained: Trained, folder: Path) -> None:
    """Tokenizer, vocabulary and settings of generation, beside a checkpoint."""
    from transformers import GenerationConfig

    trained.tokenizer.save_pretrained(folder)
    source = local_folder(trained.location)
    if (source / VOCABULARY_FILE).exists():
        shutil.copyfile(source / VOCABULARY_FILE, folder / VOCABULARY_FILE)
    if (source / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(source)
    else:
        generation = GenerationConfig.from_model_config(load_config(trained.location))
    if trained.stops:
        generation.eos_token_id = list(trained.stops)
    generation.save_pretrained(folder)


def _write_beside(parts: Sum, folder: Path) -> None:
    """What else belongs to the checkpoint; `merge.json` stays where an adapter was added."""
    write_settings(parts.trained, folder)
    (folder / "README.md").unlink()
    record = folder / "merge.json"
    if parts.adapter is None:
        record.unlink()
        return
    content = with_rows_file(read_json(record), parts.adapter, ADAPTER)
    record.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
