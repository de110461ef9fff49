"""All adapters in two products: their factors stacked, the gates on the rank coordinates."""

from __future__ import annotations

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.stack import Stack


def concat(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`(x A^T * g) B^T` with `A [R, in]` and `B [out, R]` stacked over adapters, `R` the sum of their ranks.

    `g [..., R]` repeats each adapter's gate times its scale over its ranks. Cost O(tokens R (in + out)) whatever the
    gates. Exact for any gates and unequal ranks.
    """
    weights = gates.dense(len(stack.names)) * stack.scales
    hidden = inputs @ stack.a.T
    return (hidden * weights[..., stack.owner].to(hidden.dtype)) @ stack.b.T
