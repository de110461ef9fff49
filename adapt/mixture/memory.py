"""What gates remember of a document, kept beside its keys and values: it lives and is reordered with the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adapt.errors import AdaptError

_PLACE = "adapt_memory"
State = tuple[torch.Tensor, ...]


class Memory:
    """Tensors `[batch, ...]` by the name of the gate that keeps them, of the tokens in a cache."""

    def __init__(self, lost: str = "") -> None:
        self.states: dict[str, State] = {}
        self.length = 0
        self.lost = lost

    def recall(self, name: str) -> State | None:
        """What a gate kept; None before a document's first token. Raises AdaptError where it was lost."""
        if self.lost:
            raise AdaptError(self.lost)
        return self.states.get(name)

    def keep(self, name: str, *state: torch.Tensor) -> None:
        """Remember this from here on."""
        self.states[name] = tuple(tensor.detach() for tensor in state)

    def select(self, rows: torch.Tensor) -> None:
        """Take these rows of the batch, in this order."""
        for name, tensors in self.states.items():
            self.states[name] = tuple(tensor[rows.to(tensor.device)] for tensor in tensors)

    def repeat(self, times: int) -> None:
        """Take every row so many times."""
        for name, tensors in self.states.items():
            self.states[name] = tuple(tensor.repeat_interleave(times, 0) for tensor in tensors)


def memory_of(cache: Any) -> Memory:
    """What was remembered beside a cache that holds tokens."""
    memory, length = getattr(cache, _PLACE, None), int(cache.get_seq_length())
    if memory is None:
        return Memory("the cache was not filled by this mixture, whose gates look back; begin without past_key_values")
    if memory.length != length:
        return Memory(
            f"the cache was cut from {memory.length} to {length} tokens, and the gates of this mixture look back; "
            "generate without an assistant model"
        )
    return memory


def put_memory(cache: Any, memory: Memory) -> None:
    """Keep a memory beside a cache: what reorders or repeats rows of the one does so with the other."""
    memory.length = int(cache.get_seq_length())
    if getattr(cache, _PLACE, None) is None:
        for name, follow in _FOLLOWED.items():
            if hasattr(cache, name):
                setattr(cache, name, _Followed(cache, getattr(cache, name), follow))
    setattr(cache, _PLACE, memory)


_FOLLOWED: dict[str, Callable[[Memory, Any], None]] = {
    "reorder_cache": Memory.select,
    "batch_select_indices": Memory.select,
    "batch_repeat_interleave": Memory.repeat,
}


class _Followed:
    """A cache's own method, and the same for the memory beside it. (No closure: a copied cache has its own.)"""

    def __init__(self, cache: Any, original: Callable[[Any], Any], follow: Callable[[Memory, Any], None]) -> None:
        self.cache, self.original, self.follow = cache, original, follow

    def __call__(self, argument: Any) -> Any:
        self.follow(getattr(self.cache, _PLACE), argument)
        return self.original(argument)
