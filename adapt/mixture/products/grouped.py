"""Only the chosen adapters, each on the tokens that chose it: tokens sorted by adapter, a product for each adapter.

What is gathered, gated and added is so for many adapters at once; only the products themselves are one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from adapt.mixture.gates import Gates
from adapt.mixture.products.common import compute_type, rows
from adapt.mixture.stack import Block, Stack

_AT_ONCE = 1024
"""About as many rows `[in]` or `[out]` are held at a time."""
_Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Chunk:
    """Some adapters in use, by their places in a block, and the slots `begin` to `end` of those that chose them.

    `sizes` and `ranks` are those of each; `tokens [end - begin]` are the slots' rows among the inputs.
    """

    members: tuple[int, ...]
    sizes: tuple[int, ...]
    ranks: tuple[int, ...]
    begin: int
    end: int
    tokens: torch.Tensor

    def of(self, parts: _Parts) -> list[torch.Tensor]:
        """Their pieces of the factors of all."""
        return [parts[member] for member in self.members]

    def rows(self, values: torch.Tensor) -> _Parts:
        """Values `[end - begin, n]` in pieces, one for each."""
        return values.split(self.sizes)

    def ranked(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Values `[slots, r]` in pieces, as far as their ranks go."""
        parts = values[self.begin : self.end].split(self.sizes)
        if len(set(self.ranks)) == 1 and self.ranks[0] == values.shape[1]:
            return parts
        return [part[:, :rank] for part, rank in zip(parts, self.ranks, strict=True)]


@dataclass(frozen=True)
class Slots:
    """The choices `[tokens * k]` of a block's adapters, sorted by adapter: their places `order [slots]`, in chunks."""

    order: torch.Tensor
    chunks: tuple[Chunk, ...]
    ranks: tuple[int, ...]
    """The rank of every adapter of the block."""


def sort_slots(chosen: torch.Tensor, block: Block, count: int) -> Slots:
    """Sort `chosen [tokens, k]`, of `count` adapters, by those that the block holds."""
    flat = chosen.flatten()
    order, sizes = flat.argsort(stable=True), torch.bincount(flat, minlength=count).tolist()
    if len(block.spans) < count:
        parts = order.split(sizes)
        order = torch.cat([parts[index] for index in block.spans])
    ranks = tuple(end - begin for begin, end in block.spans.values())
    own = [sizes[index] for index in block.spans]
    return Slots(order, tuple(_chunks(order // chosen.shape[1], own, ranks)), ranks)


def _chunks(tokens: torch.Tensor, sizes: Sequence[int], ranks: Sequence[int]) -> list[Chunk]:
    found: list[Chunk] = []
    members: list[int] = []
    begin = end = 0
    for place, size in enumerate([*sizes, 0]):
        last = place == len(sizes)
        if members and (last or end + size - begin > _AT_ONCE):
            own = tuple(sizes[member] for member in members), tuple(ranks[member] for member in members)
            found.append(Chunk(tuple(members), *own, begin, end, tokens[begin:end]))
            members, begin = [], end
        if size:
            members.append(place)
            end += size
    return found


def grouped(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`sum_j g_j s_j B_j A_j x` over the `k` adapters `j` that a token chose, tokens sorted by adapter.

    Cost O(tokens k r (in + out)) whatever the number of adapters, and some small products per adapter in use; ranks
    may differ. How many tokens chose each is read on the host.
    """
    if gates.chosen is None:
        raise ValueError("gates over all adapters choose none; use the concatenation")
    chosen = rows(gates.chosen, inputs)
    weights = rows(gates.weights, inputs) * stack.scales[chosen]
    kind = compute_type(inputs, stack)
    flat = inputs.reshape(-1, stack.size[0]).to(kind)
    parts = [
        _Grouped.apply(flat, block.a.to(kind), block.b.to(kind), weights, sort_slots(chosen, block, len(stack.names)))
        for block in stack.blocks
    ]
    total = sum(parts[1:], parts[0]) if parts else flat.new_zeros(len(flat), stack.size[1])
    return total.reshape(*inputs.shape[:-1], stack.size[1])


class _Grouped(torch.autograd.Function):
    """Keeps `x A^T` of the chosen adapters alone, `[slots, r]`, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor, slots: Slots
    ) -> torch.Tensor:
        hidden = _hidden(x, a, slots)
        ctx.slots = slots
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, a, b, weights, hidden)
        return _spread(hidden * _gates(weights, slots, a.dtype), b.T.split(slots.ranks), len(x), len(b), slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, weights, hidden = ctx.saved_tensors
        slots: Slots = ctx.slots
        need_x, need_a, need_b, need_weights, _ = ctx.needs_input_grad
        gate = _gates(weights, slots, a.dtype)
        grad_x = grad_weights = None
        back, grad_b = _back(grad, b, hidden * gate if need_b else None, slots)
        if need_weights:
            grad_weights = torch.zeros_like(weights).flatten()
            grad_weights[slots.order] = (back * hidden).to(weights.dtype).sum(1)
            grad_weights = grad_weights.view_as(weights)
        back = back.mul_(gate)
        if need_x:
            grad_x = _spread(back, a.split(slots.ranks), len(grad), a.shape[1], slots)
        return grad_x, _products(back, x, a, slots) if need_a else None, grad_b, grad_weights, None


def _gates(weights: torch.Tensor, slots: Slots, kind: torch.dtype) -> torch.Tensor:
    """Each slot's gate, `[slots, 1]`."""
    return weights.flatten().to(kind).index_select(0, slots.order).unsqueeze(1)


def _room(values: torch.Tensor, slots: Slots) -> torch.Tensor:
    """For values `[slots, r]`, r the largest rank; what lies behind a smaller one is zero."""
    return values.new_zeros(len(slots.order), max(slots.ranks, default=0))


def _hidden(x: torch.Tensor, a: torch.Tensor, slots: Slots) -> torch.Tensor:
    """`A_j x` of every slot, `[slots, r]`."""
    hidden, factors = _room(x, slots), a.T.split(slots.ranks, 1)
    for chunk in slots.chunks:
        gathered = chunk.rows(x.index_select(0, chunk.tokens))
        for rows_, factor, out in zip(gathered, chunk.of(factors), chunk.ranked(hidden), strict=True):
            torch.mm(rows_, factor, out=out)
    return hidden


def _spread(values: torch.Tensor, factors: _Parts, tokens: int, width: int, slots: Slots) -> torch.Tensor:
    """Values `[slots, r]` times each adapter's factor `[r, width]`, summed over a token's slots: `[tokens, width]`."""
    total = values.new_zeros(tokens, width)
    for chunk in slots.chunks:
        made = values.new_empty(chunk.end - chunk.begin, width)
        for rows_, factor, out in zip(chunk.ranked(values), chunk.of(factors), chunk.rows(made), strict=True):
            torch.mm(rows_, factor, out=out)
        total.index_add_(0, chunk.tokens, made)
    return total


def _back(
    grad: torch.Tensor, b: torch.Tensor, weighed: torch.Tensor | None, slots: Slots
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`B_j^T grad` of every slot, `[slots, r]`; and the gradient of b, of values `weighed [slots, r]`, if these are."""
    back, factors = _room(grad, slots), b.split(slots.ranks, 1)
    grad_b = None if weighed is None else torch.zeros_like(b)
    for chunk in slots.chunks:
        gathered = chunk.rows(grad.index_select(0, chunk.tokens))
        for rows_, factor, out in zip(gathered, chunk.of(factors), chunk.ranked(back), strict=True):
            torch.mm(rows_, factor, out=out)
        if grad_b is not None:
            sums = chunk.of(grad_b.split(slots.ranks, 1))
            for rows_, values, out in zip(gathered, chunk.ranked(weighed), sums, strict=True):
                torch.mm(rows_.T, values, out=out)
    return back, grad_b


def _products(back: torch.Tensor, x: torch.Tensor, a: torch.Tensor, slots: Slots) -> torch.Tensor:
    """The gradient of a: `back_j^T x` of each adapter's slots."""
    grad_a = torch.zeros_like(a)
    for chunk in slots.chunks:
        gathered = chunk.rows(x.index_select(0, chunk.tokens))
        for values, rows_, out in zip(chunk.ranked(back), gathered, chunk.of(grad_a.split(slots.ranks)), strict=True):
            torch.mm(values.T, rows_, out=out)
    return grad_a
