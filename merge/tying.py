"""Adapters of models whose head is their embedding: what one changes without the other gives the result two matrices.

Peft wraps embedding and head apart even where they share a weight: an adapter of the head leaves the embedding as it
is, and an adapter of the embedding the head, unless its settings say `ensure_weight_tying`. So does the merge. A mere
copy of the shared weight, which peft saves beside adapters of embeddings, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from merge.checkpoint import Checkpoint, TensorFiles, is_head
from merge.errors import MergeError

if TYPE_CHECKING:
    from merge.adapters import Adapter, AdapterVector

_AT_ONCE = 2**20
_LIKELY_HEAD = "lm_head.weight"


def leave_out_originals(adapter: Adapter, model: Checkpoint) -> None:
    """Take the copies of the model's own weights out of an adapter that peft keeps beside trained ones.

    Raises MergeError for one that is no copy: the adapter was trained on another model.
    """
    for module, parts in list(adapter.parts.items()):
        name = parts.pop("original", None)
        weight = f"{module}.weight"
        own = model.embedding if is_head(weight) and weight not in model.tensors else weight
        if name is not None and (own not in model.tensors or not same(adapter, name, model, own)):
            raise MergeError(f"'{adapter.name}' was trained on another '{own}' than that of '{model.name}'")
        if not parts:
            del adapter.parts[module]


def given_head(adapter: Adapter, model: Checkpoint) -> str | None:
    """The name of the head that the result has because of the adapter, where the model's is its embedding.

    None where the two stay one. A part for the head that is a copy of the shared weight, or that is tied to the
    embedding's part, is taken out of the adapter. Raises MergeError for a model of which it is not known what
    its head would be called.
    """
    if model.head is not None:
        return None
    heads = [module for module in adapter.parts if is_head(f"{module}.weight")]
    embedding = model.embedding.removesuffix(".weight")
    moved = _changes(adapter, embedding, model)
    if adapter.config.get("ensure_weight_tying") or not (moved or any(_changes(adapter, h, model) for h in heads)):
        for module in heads if embedding in adapter.parts or not moved else ():
            del adapter.parts[module]
        return None
    if heads:
        return f"{heads[0]}.weight"
    if not embedding.startswith(("model.", "transformer.")):
        raise MergeError(
            f"'{adapter.name}' changes '{model.embedding}' but not the head that shares this weight in "
            f"'{model.name}', and it is not known how its head would be called; add the adapter by peft"
        )
    return _LIKELY_HEAD


def _changes(adapter: Adapter, module: str, model: Checkpoint) -> bool:
    """Whether the adapter moves the module away from the model's embedding."""
    parts = adapter.parts.get(module)
    return parts is not None and (set(parts) != {"whole"} or not same(adapter, parts["whole"], model, model.embedding))


def heads_of(models: Iterable[Checkpoint], vectors: Iterable[AdapterVector]) -> list[str]:
    """What those call their head that have one of their own; an adapter may give one to a model that has none."""
    return [head for head in (*(m.head for m in models), *(v.head for v in vectors)) if head is not None]


def heads_given(vectors: Iterable[AdapterVector]) -> Iterator[str]:
    """What is said of adapters that part a head from its embedding."""
    for vector in vectors:
        if vector.head is not None:
            yield (
                f"'{vector.adapter.name}' changes the embedding or the head of '{vector.base}', not both alike; they "
                "share one weight there, in the result they are two"
            )


def same(left: TensorFiles, name: str, right: TensorFiles, other: str) -> bool:
    """Whether two tensors in files hold the same numbers, whatever their types."""
    if left.tensors[name].shape != right.tensors[other].shape:
        return False
    count = torch.Size(left.tensors[name].shape).numel()
    for first in range(0, count, _AT_ONCE):
        many = min(_AT_ONCE, count - first)
        if not torch.equal(_stretch(left, name, first, many), _stretch(right, other, first, many)):
            return False
    return True


def _stretch(files: TensorFiles, name: str, first: int, count: int) -> torch.Tensor:
    dtype = files.tensors[name].dtype
    values = torch.empty(count, dtype=dtype)
    files.read(name, first * dtype.itemsize, memoryview(values.view(torch.uint8).numpy()))
    return values.double()
