"""A linear layer with a mixture of low-rank updates beside it."""

from __future__ import annotations

import torch
from torch import nn

from adapt.mixture.products.concat import concat
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Stack


class MixtureLinear(nn.Module):
    """`y = W x + sum_e g_e(x) s_e B_e A_e x`.

    The base layer (plain, or quantised by bitsandbytes) is called as it is and always on.
    """

    def __init__(self, base: nn.Module, stack: Stack, router: Router, routing: Routing) -> None:
        super().__init__()
        self.base, self.stack, self.router = base, stack, router
        self._routing = routing

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, length, in]` to `[batch, length, out]`."""
        gates = self.router(inputs, self._routing)
        return self.base(inputs) + concat(inputs, self.stack, gates)
