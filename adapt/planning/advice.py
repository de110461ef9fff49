"""The cheapest change of keys that makes a train stage fit: candidates in the order of what they cost, each planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.planning.train import TrainPlan
    from adapt.stages.train import Train

_SHORTEST = 256
"""Tokens below which no sequence is advised."""


@dataclass(frozen=True)
class Advice:
    """Changes of a stage's keys, as `--set` takes them below the stage, with which it fits; and what they cost."""

    sets: tuple[str, ...]
    cost: str
    stage: Train
    peak: int


Changes = dict[str, Any]


def advice(stage: Train, plan: Callable[[Train], TrainPlan], room: int, device: str) -> Advice | None:
    """The first candidate whose tensors take at most `room` bytes on a device (`cpu`, `cuda`); None where none does."""
    for changes, cost in candidates(stage, device):
        other = type(stage).model_validate(_merged(stage.model_dump(mode="json", by_alias=True), changes))
        if any(True for _ in other.method.conflicts()):
            continue
        peak = plan(other).memory.peak
        if peak <= room:
            return Advice(_sets(changes), cost, other, peak)
    return None


def candidates(stage: Train, device: str) -> Iterator[tuple[Changes, str]]:
    """Changes of keys, those that cost least first; each goes together with the ones that cost less.

    Smaller batches of the same update, then recomputation, moments in 8 bits, weights in 4 bits, moments and
    activations of a GPU in main memory, and at last shorter sequences, which change what is learned.
    """
    small, done = _smallest_batch(stage), {}
    yield from ((changes, "some per cent of the time") for changes in _batches(stage) if changes != small)
    if small:
        yield small, "a few per cent of the time"
    for changes, cost in _steps(stage, device):
        if not done and small:
            yield changes, cost
        done = _merged(done, changes)
        yield _merged(small, done), cost
    length = stage.sequence_length
    while (length := length // 2) >= _SHORTEST:
        yield _merged(_merged(small, done), {"sequence_length": length}), "shorter contexts: other results"


def _batches(stage: Train) -> Iterator[Changes]:
    size = stage.batch_size
    while size % 2 == 0:
        size //= 2
        yield {"batch_size": size, "gradient_accumulation": stage.gradient_accumulation * (stage.batch_size // size)}


def _smallest_batch(stage: Train) -> Changes:
    if stage.batch_size == 1:
        return {}
    return {"batch_size": 1, "gradient_accumulation": stage.gradient_accumulation * stage.batch_size}


def _steps(stage: Train, device: str) -> Iterator[tuple[Changes, str]]:
    if not stage.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, "about a quarter more time"
    if stage.optimizer.kind == "adamw":
        yield {"optimizer": {"kind": "adamw_8bit"}}, "moments in 8 bits"
    if stage.method.kind == "lora":
        yield {"method": {"kind": "qlora"}}, "weights in 4 bits: about a third more time"
    if stage.method.kind == "half" and stage.method.frozen == "plain":
        yield {"method": {"frozen": "nf4"}}, "frozen matrices in 4 bits"
    if device == "cuda" and stage.optimizer.kind in ("adamw", "adamw_8bit"):
        yield {"optimizer": {"kind": "paged_adamw_8bit"}}, "moments in main memory where the GPU is full: slow updates"
    if device == "cuda" and not stage.activation_offloading:
        yield {"activation_offloading": True}, "activations in main memory: slow steps"
    if stage.method.kind in ("full", "half", "lisa", "spectrum", "freeze"):
        yield {"method": {"kind": "qlora", "r": 32}}, "another method: low-rank updates over 4 bits"


def _merged(values: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """Changes put into nested values; another kind of method starts from its own defaults."""
    merged = dict(values)
    for key, change in changes.items():
        own = merged.get(key)
        if not (isinstance(change, dict) and isinstance(own, dict)):
            merged[key] = change
        elif "kind" in change and not _alike(own.get("kind"), change["kind"]):
            merged[key] = {**_kept(own), **change}
        else:
            merged[key] = {**own, **change}
    return merged


def _alike(one: str | None, other: str) -> bool:
    """Kinds that have the same settings."""
    return one is None or {one, other} <= {"lora", "qlora"} or ("adamw" in one and "adamw" in other)


def _kept(own: dict[str, Any]) -> dict[str, Any]:
    return {key: own[key] for key in ("train_embeddings", "old_rows") if own.get(key) is not None}


def _sets(changes: Changes) -> tuple[str, ...]:
    found: list[str] = []
    for key, value in changes.items():
        parts = value.items() if isinstance(value, dict) else ()
        found += [f"{key}.{name}={_text(part)}" for name, part in parts] or [f"{key}={_text(value)}"]
    return tuple(found)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
