"""Which product is the cheaper one for some shapes, and the product that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.products.concat import concat
from adapt.mixture.products.grouped import grouped
from adapt.mixture.stack import Stack

PRODUCTS: dict[str, Callable[[torch.Tensor, Stack, Gates], torch.Tensor]] = {"concat": concat, "grouped": grouped}

# Seconds of a step (forward and backward) on one core in float32, fitted by hand to timings of single layers.
# Only their ratios matter; a forward pass alone has nearly the same ones.
_ARITHMETIC = 7.5e-11
"""Per token, rank coordinate and unit of width (inputs and outputs)."""
_MOVE = 3.0e-9
"""Per row and unit of width: rows are gathered, gated and added."""
_SEGMENT = 3.0e-4
"""Per adapter in use: some thirty small calls."""
_FEW = 6
"""As many tokens cost what reading the factors from memory does."""


def choose(
    tokens: int, ranks: tuple[int, ...], k: int | None, inner: int, outer: int, device: str
) -> Literal["concat", "grouped"]:
    """The product to take for `tokens` rows that choose `k` adapters each (None: all) of a layer `inner` to `outer`.

    A function of shapes alone, so that the same batch is always computed in the same way. Where the device is no CPU
    the answer is `concat`: the grouped product waits for sizes on the host and has not been shown to pay there.
    """
    present = [rank for rank in ranks if rank]
    if k is None or device != "cpu" or len(present) < 2:
        return "concat"
    width = inner + outer
    rank, slots = sum(present) / len(present), tokens * k
    dense = width * (max(tokens, _FEW) * sum(present) * _ARITHMETIC + tokens * _MOVE)
    used = len(present) * (1 - (1 - 1 / len(ranks)) ** slots)
    sparse = width * (max(slots, _FEW * used) * rank * _ARITHMETIC + slots * _MOVE) + used * _SEGMENT
    return "grouped" if sparse < dense else "concat"


def low_rank_sum(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`sum_e g_e s_e B_e A_e x` by the cheaper product, `[..., in]` to `[..., out]`.

    While a graph is compiled always by the concatenation, whose shapes do not depend on the gates.
    """
    if torch.compiler.is_compiling():
        return concat(inputs, stack, gates)
    k = None if gates.chosen is None else gates.chosen.shape[-1]
    tokens = inputs.numel() // max(1, inputs.shape[-1])
    return PRODUCTS[choose(tokens, stack.ranks, k, *stack.size, inputs.device.type)](inputs, stack, gates)
