"""Few tokens, as generation has them: of each token the chosen adapters alone, one matrix times a vector after another.

There the time goes into reading factors from memory, and nothing of the adapters that no token chose is read.
"""

from __future__ import annotations

import torch

from adapt.mixture.gates import Gates
from adapt.mixture.products.common import compute_type, rows
from adapt.mixture.stack import Stack


@torch.no_grad()
def few(inputs: torch.Tensor, stack: Stack, gates: Gates) -> torch.Tensor:
    """`sum_j g_j s_j B_j A_j x` over the adapters `j` that a token chose; nothing is differentiated.

    Cost O(r (in + out)) and some small calls for each choice of each token. Choices are read on the host.
    """
    if gates.chosen is None:
        raise ValueError("gates over all adapters choose none; use the concatenation")
    chosen = rows(gates.chosen, inputs)
    kind = compute_type(inputs, stack)
    weights = (rows(gates.weights, inputs) * stack.scales[chosen]).tolist()
    flat = inputs.reshape(-1, stack.size[0]).to(kind)
    total = flat.new_zeros(len(flat), stack.size[1])
    for block in stack.blocks:
        a, b = block.a.to(kind), block.b.to(kind)
        for x, y, adapters, own in zip(flat.unbind(), total.unbind(), chosen.tolist(), weights, strict=True):
            for adapter, weight in zip(adapters, own, strict=True):
                begin, end = block.spans.get(adapter, (0, 0))
                if end:
                    y.addmv_(b[:, begin:end], torch.mv(a[begin:end], x), alpha=weight)
    return total.reshape(*inputs.shape[:-1], stack.size[1])
