"""A linear layer with a mixture of low-rank updates beside it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import dropout

from adapt.mixture.products.choice import low_rank_sum
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Stack


class MixtureLinear(nn.Module):
    """`y = W x + sum_e g_e(x) s_e B_e A_e dropout(x)`.

    The base layer (plain, or quantised by bitsandbytes) is called as it is and always on. The sum is computed in the
    factors' type (under autocast in autocast's) and added in that of the base's output. Dropout is drawn once for all
    adapters; the router sees the input without it.
    """

    def __init__(self, base: nn.Module, stack: Stack, router: Router, routing: Routing, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.stack, self.router = base, stack, router
        self.dropout = dropout
        self._routing = routing

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, length, in]` to `[batch, length, out]`."""
        gates = self.router(inputs, self._routing)
        dropped = dropout(inputs, self.dropout, self.training) if self.dropout else inputs
        output = self.base(inputs)
        return output + low_rank_sum(dropped, self.stack, gates).to(output.dtype)

    def extra_repr(self) -> str:
        """Adapters and their ranks here."""
        ranks = ", ".join(f"{name}: {rank}" for name, rank in zip(self.stack.names, self.stack.ranks, strict=True))
        return f"ranks={{{ranks}}}" + (f", dropout={self.dropout}" if self.dropout else "")
