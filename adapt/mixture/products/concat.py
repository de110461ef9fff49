"""All adapters in two products: their factors stacked, the gates on the rank coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from adapt.mixture.gates import Gates
from adapt.mixture.products.common import compute_type, rows
from adapt.mixture.stack import Block, Stack


def concat(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`(x A^T * g) B^T` with `A [R, in]` and `B [out, R]` stacked over adapters, `R` the sum of their ranks.

    `g [..., R]` repeats each adapter's gate times its scale over its ranks. Cost O(tokens R (in + out)) whatever the
    gates. Exact for any gates and unequal ranks.
    """
    weights = rows(gates.dense(len(stack.names)), inputs) * stack.scales
    kind = compute_type(inputs, stack)
    flat = inputs.reshape(-1, stack.size[0]).to(kind)
    parts = [_block(flat, block, weights, kind) for block in stack.blocks]
    total = sum(parts[1:], parts[0]) if parts else flat.new_zeros(len(flat), stack.size[1])
    return total.reshape(*inputs.shape[:-1], stack.size[1])


def _block(flat: torch.Tensor, block: Block, weights: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return _GatedConcat.apply(flat, block.a.to(kind), block.b.to(kind), weights, block.owner)


class _GatedConcat(torch.autograd.Function):
    """Of the values `[tokens, R]` only `x A^T` is kept for the backward pass; gates are repeated anew there."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        hidden = x @ a.T
        _, need_a, need_b, need_weights, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if need_a else None, a, b, weights, owner, hidden if need_b or need_weights else None)
        return (hidden * _repeat(weights, owner, hidden.dtype)) @ b.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, weights, owner, hidden = ctx.saved_tensors
        need_x, need_a, need_b, need_weights, _ = ctx.needs_input_grad
        grad_x = grad_a = grad_b = grad_weights = None
        gate = _repeat(weights, owner, a.dtype)
        if need_b:
            grad_b = ((hidden * gate).T @ grad).T  # laid out as b is
        if need_x or need_a or need_weights:
            back = grad @ b
            if need_weights:
                members = owner.unsqueeze(1) == torch.arange(weights.shape[1], device=owner.device)
                grad_weights = (back * hidden).to(weights.dtype) @ members.to(weights.dtype)
            back = back.mul_(gate)
            grad_x = back @ a if need_x else None
            grad_a = back.T @ x if need_a else None
        return grad_x, grad_a, grad_b, grad_weights, None


def _repeat(weights: torch.Tensor, owner: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """`[tokens, adapters]` to `[tokens, R]`."""
    return weights.to(kind).index_select(1, owner)
