"""Only the chosen adapters, each on the tokens that chose it: tokens sorted by adapter, products of segments.

A segment is gathered, multiplied and added to the output before the next one, so that nothing of the size
`[tokens k, in]` is made: in main memory fresh pages cost more than the products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from adapt.mixture.gates import Gates
from adapt.mixture.products.common import compute_type, rows
from adapt.mixture.stack import Block, Stack


@dataclass(frozen=True)
class Segment:
    """The tokens that chose one adapter: their `slots [n]` among the gates `[tokens * k]`, their rows `tokens [n]`
    among the inputs, each once, and the adapter's coordinates `begin` to `end` in its block.
    """

    slots: torch.Tensor
    tokens: torch.Tensor
    begin: int
    end: int


def segments(chosen: torch.Tensor, block: Block, count: int) -> list[Segment]:
    """Sort `chosen [tokens, k]` of `count` adapters by adapter; the segments of a block's adapters in use."""
    flat = chosen.flatten()
    slots = flat.argsort(stable=True)
    sizes = torch.bincount(flat, minlength=count).tolist()
    parts = zip(slots.split(sizes), (slots // chosen.shape[1]).split(sizes), strict=True)
    found = {index: part for index, part in enumerate(parts) if sizes[index]}
    return [Segment(*found[index], *span) for index, span in block.spans.items() if index in found]


def grouped(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`sum_j g_j s_j B_j A_j x` over the `k` adapters `j` that a token chose, tokens sorted by adapter.

    Cost O(tokens k r (in + out)) whatever the number of adapters, and some small products per adapter in use; ranks
    may differ. The sizes of the segments are read on the host.
    """
    if gates.chosen is None:
        raise ValueError("gates over all adapters choose none; use the concatenation")
    chosen = rows(gates.chosen, inputs)
    weights = rows(gates.weights, inputs) * stack.scales[chosen]
    kind = compute_type(inputs, stack)
    flat = inputs.reshape(-1, stack.size[0]).to(kind)
    parts = [
        _Grouped.apply(flat, block.a.to(kind), block.b.to(kind), weights, segments(chosen, block, len(stack.names)))
        for block in stack.blocks
    ]
    total = sum(parts[1:], parts[0]) if parts else flat.new_zeros(len(flat), stack.size[1])
    return total.reshape(*inputs.shape[:-1], stack.size[1])


class _Grouped(torch.autograd.Function):
    """Keeps `x A^T` of the chosen adapters alone, `[tokens k, r]` in pieces, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor, parts: list[Segment]
    ) -> torch.Tensor:
        out = x.new_zeros(len(x), len(b))
        gates, kept = weights.flatten().to(a.dtype), []
        for part in parts:
            hidden = x.index_select(0, part.tokens) @ a[part.begin : part.end].T
            weighed = hidden * gates.index_select(0, part.slots).unsqueeze(1)
            out.index_add_(0, part.tokens, weighed @ b[:, part.begin : part.end].T)
            kept.append(hidden)
        ctx.parts = parts
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, a, b, weights, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, weights, *kept = ctx.saved_tensors
        need_x, need_a, need_b, need_weights, _ = ctx.needs_input_grad
        grad_x = grad.new_zeros(len(grad), a.shape[1]) if need_x else None
        grad_a = torch.zeros_like(a) if need_a else None
        grad_b = torch.zeros_like(b) if need_b else None
        grad_weights = torch.zeros_like(weights).flatten() if need_weights else None
        gates = weights.flatten().to(a.dtype)
        for part, hidden in zip(ctx.parts, kept, strict=True):
            span, gate = slice(part.begin, part.end), gates.index_select(0, part.slots).unsqueeze(1)
            above = grad.index_select(0, part.tokens)
            back = above @ b[:, span]
            if need_weights:
                grad_weights[part.slots] = (back * hidden).to(weights.dtype).sum(1)
            if need_b:
                grad_b[:, span] = above.T @ (hidden * gate)
            back = back.mul_(gate)
            if need_x:
                grad_x.index_add_(0, part.tokens, back @ a[span])
            if need_a:
                torch.mm(back.T, x.index_select(0, part.tokens), out=grad_a[span])
        return grad_x, grad_a, grad_b, grad_weights.view_as(weights) if need_weights else None, None
