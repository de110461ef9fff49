"""A device that is not the CPU, for machines without a GPU: torch's `meta` made to compute.

Under `away()` a tensor that is made on or moved to `meta` holds values, which lie out of numpy's reach. An operation
that takes one of these together with a tensor of the CPU raises as it would on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_COPIES = ("aten::_to_copy", "aten::copy_")


class Away(torch.Tensor):
    """A tensor that says it is on `DEVICE`; its values are in `held`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Away:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return _computed(operation, given, named or {})

    def tolist(self) -> Any:
        return self.held.tolist()


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return _computed(operation, given, named or {})


@contextmanager
def away() -> Iterator[torch.device]:
    """Lets `meta` compute."""
    with _Mode():
        yield DEVICE


def _computed(operation: Any, given: Any, named: dict[str, Any]) -> Any:
    tensors = [part for part in tree_flatten((given, named))[0] if isinstance(part, torch.Tensor)]
    there = [part for part in tensors if isinstance(part, Away)]
    here = [part for part in tensors if not isinstance(part, Away) and part.dim() > 0]
    copied = operation._schema.name in _COPIES
    if there and here and not copied:
        raise RuntimeError(f"{operation} takes tensors of two devices")
    wanted = named.get("device")
    goes = torch.device(wanted) == DEVICE if wanted is not None else bool(there)
    if operation._schema.name == "aten::copy_":
        goes = isinstance(given[0], Away)
    if wanted is not None and torch.device(wanted) == DEVICE:
        named = named | {"device": torch.device("cpu")}
    given, named = tree_map(lambda part: part.held if isinstance(part, Away) else part, (given, named))
    result = operation(*given, **named)
    if not goes:
        return result
    known = {id(part.held): part for part in there}

    def shown(part: Any) -> Any:
        if not isinstance(part, torch.Tensor) or isinstance(part, Away):
            return part
        return known[id(part)] if id(part) in known else Away(part)

    return tree_map(shown, result)
