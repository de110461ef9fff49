"""What is checked in the run itself: only what was declared changed, and everything that was declared trains.

Design rule 5. A tensor that changed without being declared, a held row that moved, or a declared module that never
received a gradient stops the run with a line that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.training.parts import gradient, whole
from adapt.training.rows import EmbeddingRows


def fingerprint(tensor: torch.Tensor) -> str:
    """BLAKE2 of a tensor's bytes, wherever it lies and whatever its format."""
    data = whole(tensor.detach()).cpu().contiguous().view(-1)
    return hashlib.blake2b(data.view(torch.uint8).numpy(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """The fingerprints of every parameter, every saved buffer, and of the embedding rows that must not move."""

    tensors: Mapping[str, str]
    held: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, rows: EmbeddingRows) -> Snapshot:
        """Take the fingerprints of a model as it is now."""
        tensors = {name: fingerprint(parameter) for name, parameter in model.named_parameters()}
        tensors |= {name: fingerprint(buffer) for name, buffer in model.named_buffers()}
        return cls(tensors, {name: fingerprint(held) for name, held in rows.held()})


def module_of(parameter: str) -> str:
    """The module that a parameter belongs to; updates beside a layer, and the gate over them, belong to the layer."""
    for mark in (".lora_", ".vera_", ".stack.", ".router.", ".task."):
        if mark in parameter:
            return parameter.split(mark)[0]
    return parameter.rpartition(".")[0]


def declared(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that is to train, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def set_turns(model: nn.Module, names: Collection[str]) -> None:
    """Mark parameters that train in turns: at any time only some of them, each maybe later than now."""
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.trains_in_turns = True


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that trains at some time of the run, by name: what the optimiser and checkpoints know."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or getattr(parameter, "trains_in_turns", False)
    }


def check_changes(before: Snapshot, after: Snapshot, names: Iterable[str]) -> dict[str, int]:
    """Compare two snapshots with the declared names; returns how many tensors changed and how many did not.

    Raises AdaptError where an undeclared tensor or a held row changed, or where nothing of a declared module did. (A
    single tensor may stand still: the first half of a LoRA update has no gradient until the second is no longer zero.)
    """
    names = set(names)
    changed = {name for name, value in after.tensors.items() if before.tensors.get(name) != value}
    for name in sorted(changed - names):
        raise AdaptError(f"the tensor '{name}' changed in training though it was to stay frozen; nothing was written")
    for name, value in after.held.items():
        if before.held[name] != value:
            raise AdaptError(f"rows of '{name}' that were to be held still changed in training; nothing was written")
    moved = {module_of(name) for name in changed}
    for name in sorted(names):
        if module_of(name) not in moved:
            raise AdaptError(
                f"'{module_of(name)}' was to train but did not change in the whole run; nothing was written"
            )
    return {"changed": len(changed), "unchanged": len(after.tensors) - len(changed)}


def check_gradients(model: nn.Module, rows: EmbeddingRows) -> int:
    """Every declared module has a gradient other than zero after the first step; returns how many modules there are.

    Input and output embedding count as one: rows of new pieces may not occur in the first step's text, but the output
    embedding's rows receive the softmax's gradient in every step.
    """
    apart = {id(parameter) for parameter in rows.all_parameters}
    alive: dict[str, bool] = {}
    for name, parameter in declared(model).items():
        module = "the embeddings" if id(parameter) in apart else module_of(name)
        found = gradient(parameter)
        alive[module] = alive.get(module, False) or (found is not None and bool(found.any()))
    dead = sorted(module for module, lives in alive.items() if not lives)
    if dead:
        raise AdaptError(
            f"{len(dead)} of {len(alive)} modules that are to train got no gradient in the first step, the first is "
            f"'{dead[0]}'; take it out of the method's targets or give it data that uses it"
        )
    return len(alive)


def trainable_numbers(model: Any, rows: EmbeddingRows) -> dict[str, float]:
    """How many numbers train, their share of all, and the share among the blocks (all but the embeddings).

    Rows that are held do not count, and rows apart from their table count once. 4-bit weights count as the numbers that
    they stand for.
    """
    counts = rows.training()
    apart = {id(parameter) for parameter in rows.parameters} if rows.tables else set()
    total = blocks = training = blocks_training = 0
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables |= {id(head.weight) for head in [model.get_output_embeddings()] if head is not None}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = state.shape.numel() if state is not None else parameter.numel()
        is_block = id(parameter) not in counts and id(parameter) not in tables
        trains = counts.get(id(parameter), size if parameter.requires_grad else 0)
        total, training = total + size * (id(parameter) not in apart), training + trains
        blocks, blocks_training = blocks + size * is_block, blocks_training + trains * is_block
    return {
        "parameters": training,
        "share": training / max(1, total),
        "blocks_share": blocks_training / max(1, blocks),
    }
