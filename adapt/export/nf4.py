"""A base as 4-bit NormalFloat holds it: each weight quantised and written out again, one tensor at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch

from merge.checkpoint import Checkpoint
from merge.operands import Inputs, LeafOperand, Target


def dequantised(weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`Q^-1(Q(W))` in float32 on the CPU: NF4 in blocks of 64 with double quantisation, as bitsandbytes does it.

    `dtype` is the format in which the weight was loaded before it was quantised, and in which the 4 bits are written
    out when the model computes; Dettmers et al. 2023, arXiv 2305.14314.
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    held = Params4bit(weight.to(dtype), requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
    if held.quant_state is None:  # on a CPU bitsandbytes leaves a tensor that is there already as it is
        held = held._quantize(device)
    return dequantize_4bit(held.data, held.quant_state).float().cpu()


@dataclass(frozen=True)
class Nf4Base:
    """A checkpoint in a formula whose weights `names` are read as 4 bits hold them; the others are as on the disk."""

    adapter: Checkpoint
    """The checkpoint itself, under the name by which a merge finds what it reads."""
    names: Collection[str]
    dtype: torch.dtype
    device: torch.device

    @property
    def base(self) -> str:
        """The model that is read: the same."""
        return self.adapter.name

    def __call__(self, target: Target, inputs: Inputs) -> LeafOperand:
        """The operand of one tensor."""
        if inputs.name_in[self.adapter.name] not in self.names:
            return LeafOperand(self.adapter.name, target, inputs)
        return Nf4Operand(self, target, inputs)


class Nf4Operand(LeafOperand):
    """A weight `[n, c]` as 4 bits hold it. Blocks of 64 do not end with rows, so it is read whole."""

    def __init__(self, base: Nf4Base, target: Target, inputs: Inputs) -> None:
        super().__init__(base.adapter.name, target, inputs)
        self.base, self.accumulate = base, inputs.accumulate

    @cached_property
    def whole(self) -> torch.Tensor:
        """All rows, in float32."""
        info = self.model.tensors[self.tensor]
        raw = torch.empty(info.shape, dtype=info.dtype)
        data = memoryview(raw.reshape(-1).view(torch.uint8).numpy())
        self.model.read(self.tensor, 0, data)
        self.hash.update(0, data)
        return dequantised(raw, self.base.dtype, self.base.device).reshape(self.target.height, self.target.width)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows, converted."""
        return self.whole[first:last].to(self.accumulate, copy=True)
