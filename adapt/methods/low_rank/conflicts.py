"""Keys of the low-rank methods that do not go together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from adapt.methods.lora import LowRank
    from adapt.methods.low_rank.settings import Refactor
    from adapt.training.optimizer import BaseOptimizer

_EMBEDDINGS = ("lm_head", "embed_tokens", "wte", "embed_out")


def conflicts_of(method: LowRank) -> Iterator[tuple[str, str]]:
    """Pairs of a key and what is wrong with it."""
    yield from targets_of(method.targets)
    for key in ("rank_pattern", "alpha_pattern"):
        yield from _pattern(key, getattr(method, key))
    if method.init == "loftq" and method.kind != "qlora":
        yield "init", "'loftq' makes up for the error of 4 bits, but this base is not quantised; use qlora, or pissa"
    if method.lora_fa and method.dora:
        yield "lora_fa", "its gradient is that of a plain update, not of dora; take one of the two out"
    if method.lora_fa and method.lora_plus is not None:
        yield "lora_plus", "A does not train with lora_fa, so there is no ratio of rates; set schedule.peak instead"
    if method.refactor is not None:
        yield from _refactor(method)
    if method.rank_select is not None and method.dora:
        yield "rank_select", "dora's magnitudes hold for the update without gates; take one of the two out"
    if method.rank_select is not None and method.init in ("pissa", "olora", "loftq"):
        yield (
            "rank_select",
            f"a gate at zero loses what init '{method.init}' took out of the weight; set init to eva",
        )
    if method.average is not None and method.dora:
        yield (
            "average",
            "dora's magnitudes are no part of a sum that could be averaged; take one of the two out",
        )


def unprunable(refactor: Refactor, optimizer: BaseOptimizer) -> Iterator[str]:
    """A share of moments that a restart cannot set to zero, because they are not one for each weight."""
    if optimizer.moments and refactor.prune < 1:
        yield (
            f"refactor.prune is {refactor.prune:g}, but the moments of optimizer '{optimizer.kind}' {optimizer.moments}"
            " and cannot be pruned one by one; set refactor.prune to 1"
        )


def targets_of(targets: Literal["all-linear"] | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Targets that are none, and embeddings: only their rows train by themselves."""
    if targets == ():
        yield "targets", "an empty list of targets would train nothing; write all-linear or names such as q_proj"
    for name in targets if targets != "all-linear" else ():
        if name.split(".")[-1] in _EMBEDDINGS:
            yield "targets", f"'{name}' is an embedding; use train_embeddings: new_rows or whole for it"


def _pattern(key: str, names: dict) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            re.compile(name)
        except re.error as error:
            yield key, f"'{name}' is no regular expression: {error}"


def _refactor(method: LowRank) -> Iterator[tuple[str, str]]:
    if method.lora_fa:
        yield "refactor", "a restart draws A anew, and lora_fa keeps it as it is; take one of the two out"
    if method.dora and method.kind != "lora":
        yield "refactor", "over 4 bits finished updates stay beside the weight, where dora's norm misses them; use lora"
    for key in ("rank_select", "average"):
        if getattr(method, key) is not None:
            yield "refactor", f"a restart sets the update to zero, which {key} follows; take one of the two out"
    if method.refactor is not None and method.refactor.warmup >= method.refactor.every:
        yield (
            "refactor",
            f"warmup is {method.refactor.warmup}, so the rate would never be whole again before the next restart; "
            f"set it below every ({method.refactor.every})",
        )
