"""Which product is the cheaper one for some shapes, and the product that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.products.concat import concat
from adapt.mixture.products.few import few
from adapt.mixture.products.grouped import grouped
from adapt.mixture.stack import Stack

Product = Callable[[torch.Tensor, Stack, Gates], torch.Tensor]
PRODUCTS: dict[str, Product] = {"concat": concat, "grouped": grouped}
"""Those that can be differentiated."""

# Seconds of a step (forward and backward) on one core in float32, fitted to timings of single layers: over 158 shapes
# the product that they choose takes 0.5 % more than the faster one in the mean, and at most 31 %.
# Only their ratios matter; a forward pass alone has nearly the same ones.
_ARITHMETIC = 7.5e-11
"""Per token, rank coordinate and unit of width (inputs and outputs)."""
_MOVE = 3.0e-9
"""Per row and unit of width: rows are gathered, gated and added."""
_SORT = 5.0e-4
"""Sorting tokens by adapter, gathering and adding rows: some dozens of calls, however many adapters there are."""
_SEGMENT = 4.0e-5
"""Per adapter in use: six small products."""
_FEW = 3
"""As many tokens cost what reading the factors from memory does."""
_CHOICE = 2.5e-5
"""Per choice of a token, of the product for few of them: half a dozen calls."""


def choose(
    tokens: int, ranks: tuple[int, ...], k: int | None, inner: int, outer: int, device: str, learning: bool = True
) -> Literal["concat", "grouped", "few"]:
    """The product to take for `tokens` rows that choose `k` adapters each (None: all) of a layer `inner` to `outer`.

    `learning` is whether it may be differentiated. A function of shapes alone, so that the same batch is always
    computed in the same way. Where the device is no CPU the answer is `concat`: the others wait for sizes or choices on
    the host and have not been shown to pay there.
    """
    present = [rank for rank in ranks if rank]
    if k is None or device != "cpu" or len(present) < 2:
        return "concat"
    width = inner + outer
    rank, slots = sum(present) / len(present), tokens * k
    used = len(present) * (1 - (1 - 1 / len(ranks)) ** slots)
    costs: dict[Literal["concat", "grouped", "few"], float] = {
        "concat": width * (max(tokens, _FEW) * sum(present) * _ARITHMETIC + tokens * _MOVE),
        "grouped": width * (max(slots, _FEW * used) * rank * _ARITHMETIC + slots * _MOVE) + used * _SEGMENT + _SORT,
    }
    if not learning:
        costs["few"] = slots * (_CHOICE + width * rank * _FEW * _ARITHMETIC)
    return min(costs, key=lambda name: costs[name])


def low_rank_sum(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`sum_e g_e s_e B_e A_e x` by the cheapest product, `[..., in]` to `[..., out]`.

    While a graph is compiled always by the concatenation, whose shapes do not depend on the gates.
    """
    if torch.compiler.is_compiling():
        return concat(inputs, stack, gates)
    k = None if gates.chosen is None else gates.chosen.shape[-1]
    tokens = inputs.numel() // max(1, inputs.shape[-1])
    name = choose(tokens, stack.ranks, k, *stack.size, inputs.device.type, torch.is_grad_enabled())
    return few(inputs, stack, gates) if name == "few" else PRODUCTS[name](inputs, stack, gates)
