"""Embedding rows that an adapter carries, in a formula: put in as they are, not added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from adapt.errors import AdaptError
from adapt.methods.adapter import ROWS_FILE
from merge.adapters import Adapter, AdapterVector
from merge.operands import Inputs, LeafOperand, Operand, Target


@dataclass(frozen=True)
class Rows:
    """Embedding rows `tensors[name] [n, width]` in float32 and their numbers `ids [n]`."""

    ids: torch.Tensor
    tensors: Mapping[str, torch.Tensor]


def read_rows(adapter: Path) -> Rows | None:
    """The rows beside an adapter, or None where it carries none."""
    from safetensors.torch import load_file

    file = adapter / ROWS_FILE
    if not file.exists():
        return None
    tensors = load_file(file)
    return Rows(tensors.pop("ids"), tensors)


def check_rows(rows: Rows, shapes: Mapping[str, tuple[int, ...]], adapter: Path) -> None:
    """Raise AdaptError for rows that no tensor of the result (`shapes`, by name) takes up."""
    for name, tensor in rows.tensors.items():
        shape = shapes.get(name)
        if shape is None or shape[1:] != tuple(tensor.shape[1:]) or int(rows.ids.max()) >= shape[0]:
            found = "is not there" if shape is None else f"is {list(shape)}"
            raise AdaptError(
                f"'{adapter / ROWS_FILE}' holds rows up to {int(rows.ids.max())} of '{name}', which {found} in the "
                "base; nothing would use them"
            )


@dataclass(frozen=True)
class WithRows:
    """An adapter's vector together with the rows that it carries."""

    vector: AdapterVector
    carried: Rows

    @property
    def adapter(self) -> Adapter:
        """The low-rank part."""
        return self.vector.adapter

    @property
    def base(self) -> str:
        """The model that it changes."""
        return self.vector.base

    def __call__(self, target: Target, inputs: Inputs) -> Operand:
        """The operand of one tensor."""
        update = self.vector(target, inputs)
        saved = self.carried.tensors.get(inputs.name_in[self.base])
        return update if saved is None else RowsUpdate(update, self, saved, target, inputs)


class RowsUpdate(Operand):
    """A low-rank update, and then rows that take the place of the base's."""

    def __init__(self, update: Operand, vector: WithRows, saved: torch.Tensor, target: Target, inputs: Inputs) -> None:
        self.target, self.update = target, update
        self.base = LeafOperand(vector.base, target, inputs)
        self.saved = saved.to(inputs.accumulate).reshape(len(saved), -1)
        place = torch.full((inputs.checkpoints[vector.base].height,), -1)
        place[vector.carried.ids] = torch.arange(len(saved))
        self.place = place[inputs.sources[vector.base]]  # each token of the result has a row in the base

    def rows(self, first: int, last: int) -> torch.Tensor:
        """What is added to the base."""
        before = self.base.rows(first, last).clone()
        after = before.clone()
        self.add_to(after, 1.0, first, last)
        return after.sub_(before)

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """`total` is the base: its rows are replaced, so that nothing is rounded on the way."""
        if weight != 1:
            super().add_to(total, weight, first, last)
            return
        self.update.add_to(total, 1.0, first, last)
        place = self.place[first:last]
        total[place >= 0] = self.saved[place[place >= 0]]
