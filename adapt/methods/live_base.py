"""A base as the live model holds it, in a formula: some tensors come from memory, one at a time, the others from disk.

    W = live(name)    where the model in memory has a tensor of its own: what trained, or what 4 bits stand for
    W = disk(name)    everywhere else
    W[ids] = rows     in the embeddings, the rows that trained

so a sum such as `base + adapter` reads this base without ever holding it as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from merge.checkpoint import Checkpoint
from merge.operands import Inputs, LeafOperand, Target

if TYPE_CHECKING:
    from adapt.methods.base import Trained

Live = Mapping[str, Callable[[], torch.Tensor]]
"""Tensors of a model in memory, each made when it is asked for, by their names in the plain model."""


def live_weights(trained: Trained, names: Collection[str] | None = None) -> Live:
    """The weights of a model without adapters as they stand in memory, or those of them that are named.

    Embeddings of which single rows trained are left out: their rows are put in apart.
    """
    apart = {id(parameter) for parameter in trained.rows.parameters} if trained.rows.tables else set()
    tensors = trained.model.state_dict(keep_vars=True).items()
    wanted = ((name, tensor) for name, tensor in tensors if names is None or name in names)
    return {name: tensor.detach for name, tensor in wanted if id(tensor) not in apart}


def dequantised_weights(model: Any) -> Live:
    """The 4-bit weights of a model written out in float32 on the CPU, under their names in the plain model."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    def written_out(module: Linear4bit) -> torch.Tensor:
        return dequantize_4bit(module.weight.data, module.weight.quant_state).float().cpu()

    four_bit = ((name, module) for name, module in model.named_modules() if isinstance(module, Linear4bit))
    return {f"{name.removesuffix('.base_layer')}.weight": partial(written_out, module) for name, module in four_bit}


@dataclass(frozen=True)
class LiveBase:
    """A checkpoint in a formula, with tensors of the live model and with rows in their places.

    `rows[name] [n, width]` are the rows `ids [n]` of an embedding.
    """

    adapter: Checkpoint
    """The checkpoint itself, under the name by which a merge finds what it reads."""
    live: Live
    ids: torch.Tensor
    rows: Mapping[str, torch.Tensor]

    @property
    def base(self) -> str:
        """The model that is read: the same."""
        return self.adapter.name

    def __call__(self, target: Target, inputs: Inputs) -> LeafOperand:
        """The operand of one tensor."""
        return LiveOperand(self, target, inputs)


class LiveOperand(LeafOperand):
    """A tensor `[n, c]` of the live model, or of the disk, with the rows that trained."""

    def __init__(self, base: LiveBase, target: Target, inputs: Inputs) -> None:
        super().__init__(base.adapter.name, target, inputs)
        self.base, self.accumulate = base, inputs.accumulate

    @cached_property
    def held(self) -> torch.Tensor | None:
        """The live tensor as rows; None for one that is read from the disk."""
        make = self.base.live.get(self.tensor)
        return None if make is None else make().reshape(self.target.height, self.target.width)

    @cached_property
    def place(self) -> torch.Tensor | None:
        """For each row of an embedding its place among the saved ones, -1 for none."""
        if self.tensor not in self.base.rows:
            return None
        place = torch.full((self.target.height,), -1)
        place[self.base.ids] = torch.arange(len(self.base.ids))
        return place

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows, converted; the caller's own."""
        if self.held is None:
            block = super().rows(first, last)
        else:
            block = self.held[first:last].to(device=self.device, dtype=self.accumulate, copy=True)
        if self.place is not None:
            place = self.place[first:last]
            there = place >= 0
            block[there.to(block.device)] = self.base.rows[self.tensor][place[there]].to(block)
        return block
