"""One gate for several layers: computed where their block begins, used by each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adapt.mixture.gates import Gates
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing


class SharedRouter(Router):
    """The gates that were computed at `place` in this pass."""

    def __init__(self, place: str, count: int) -> None:
        super().__init__()
        self.place, self.count = place, count

    def forward(self, inputs: torch.Tensor, routing: Routing) -> Gates:
        """Whatever the inputs."""
        return routing.shared[self.place]


class GateBefore:
    """Computes a gate from a block's input, as a hook of the block, so inside of what checkpointing repeats."""

    def __init__(self, router: Router, place: str, routing: Routing) -> None:
        self.router, self.place, self.routing = router, place, routing

    def __call__(self, block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Before the block."""
        hidden = arguments[0] if arguments else named["hidden_states"]
        self.routing.shared[self.place] = self.router(hidden, self.routing)
