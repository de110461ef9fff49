"""Domain adapters: bottlenecks parallel to the feed-forward layers, for one domain or for several behind gates.

Diao et al. 2023, "Mixture-of-Domain-Adapters: Decoupling and Injecting Domain Knowledge to Pre-trained Language Models
Memories", ACL, arXiv 2306.05406. The layer that was there keeps the old knowledge and is always on:

    y = FFN(x) + sum_e g_e(x) U_e act(D_e x)          `D_e [width, hidden]` random, `U_e [hidden, width]` zero at first

As published FFN is one of the things that are weighed, so that even adapters that add nothing scale it down; here it is
not, and an adapter that adds nothing changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt.mixture.feed_forward import Channels, FeedForward
from adapt.mixture.gates import Gates
from adapt.mixture.routers.base import Router
from adapt.mixture.routing import Routing

PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}
"""Activations of bottlenecks that are no channels of the feed-forward layer."""
FFN = "ffn"
"""The form and the activation of the feed-forward layer that the bottleneck stands beside."""


@dataclass(frozen=True)
class Form:
    """What a bottleneck computes between its matrices: `act(D x + c)`, or `act(G x) * D x` where it is gated."""

    activation: str
    function: Callable[[torch.Tensor], torch.Tensor]
    gated: bool
    bias: bool

    @classmethod
    def of(cls, activation: str, layer: FeedForward) -> Form:
        """The form for an activation by its name; `ffn` is that of the layer, so that it can become part of it."""
        if activation == FFN:
            return cls(FFN, layer.activation, layer.gate is not None, layer.has_bias)
        return cls(activation, PLAIN[activation], False, True)


class Units(nn.Module):
    """The bottlenecks of several adapters beside one layer, stacked: one product in, one out, whatever their number.

    `down [R, hidden]`, `gate [R, hidden]` and `bias [R]` where the form has them, `up [hidden, R]`, R the sum of the
    widths; `owner [R]` is the index of the adapter of each unit. Everything is in float32.
    """

    def __init__(self, widths: Mapping[str, int], hidden: int, form: Form, device: torch.device | None = None) -> None:
        super().__init__()
        self.names, self.widths, self.form = tuple(widths), tuple(widths.values()), form
        count = sum(self.widths)

        def drawn() -> nn.Parameter:
            return nn.Parameter((torch.rand(count, hidden) * 2 - 1).mul_(hidden**-0.5).to(device))

        self.down = drawn()
        self.gate = drawn() if form.gated else None
        self.bias = nn.Parameter(torch.zeros(count, device=device)) if form.bias else None
        self.up = nn.Parameter(torch.zeros(hidden, count, device=device))
        owner = torch.arange(len(self.widths)).repeat_interleave(torch.tensor(self.widths))
        self.register_buffer("owner", owner.to(device), persistent=False)

    def forward(self, inputs: torch.Tensor, gates: Gates | None = None) -> torch.Tensor:
        """`sum_e g_e U_e act(D_e x)`, `[batch, length, hidden]` from the same shape; without gates all count 1."""
        values = inputs.to(self.down.dtype)
        hidden = nn.functional.linear(values, self.down, self.bias)
        if self.gate is None:
            hidden = self.form.function(hidden)
        else:
            hidden = self.form.function(nn.functional.linear(values, self.gate)) * hidden
        if gates is not None:
            hidden = hidden * gates.dense(len(self.names))[..., self.owner].to(hidden.dtype)
        return nn.functional.linear(hidden, self.up).to(inputs.dtype)

    def span(self, name: str) -> slice:
        """The units of one adapter."""
        index = self.names.index(name)
        begin = sum(self.widths[:index])
        return slice(begin, begin + self.widths[index])

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """One adapter's tensors: `down`, `up`, and `gate`, `bias` where the form has them."""
        span = self.span(name)
        found = {"down": self.down[span], "up": self.up[:, span]}
        found |= {"gate": self.gate[span]} if self.gate is not None else {}
        found |= {"bias": self.bias[span]} if self.bias is not None else {}
        return {key: tensor.detach() for key, tensor in found.items()}

    @torch.no_grad()
    def put(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over one adapter's tensors."""
        for key, own in self.tensors(name).items():
            own.copy_(tensors[key])

    def channels(self, weights: Mapping[str, float] | None = None) -> Channels:
        """The units as channels of the feed-forward layer, each adapter times its weight (1 where none are given)."""
        factors = torch.tensor([1.0 if weights is None else weights[name] for name in self.names])
        scaled = self.up.detach().float().cpu() * factors[self.owner.cpu()]
        parts = [None if part is None else part.detach().float().cpu() for part in (self.gate, self.bias)]
        return Channels(self.down.detach().float().cpu(), scaled, *parts)


class ParallelFeedForward(nn.Module):
    """A feed-forward layer with bottlenecks beside it: `domains` behind a router, and a `task` adapter always on.

    Without a router all domains count 1. In training the squared size of what the domains add, over the tokens that
    the routing marks with `keep`, is left in `added` for the sampling loss.
    """

    def __init__(
        self,
        ffn: nn.Module,
        routing: Routing,
        domains: Units | None = None,
        router: Router | None = None,
        task: Units | None = None,
    ) -> None:
        super().__init__()
        self.ffn, self.domains, self.router, self.task = ffn, domains, router, task
        self._routing = routing
        self.added: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, length, hidden]` to the same."""
        result = self.ffn(inputs)
        if self.domains is not None:
            gates = self.router(inputs, self._routing) if self.router is not None else None
            update = self.domains(inputs, gates)
            self._note(update)
            result = result + update
        return result if self.task is None else result + self.task(inputs)

    def _note(self, update: torch.Tensor) -> None:
        keep = self._routing.keep
        self.added = None
        if self.training and keep is not None:
            self.added = (update.float().square().mean(-1) * keep).sum()


def parallel_layers(model: Any) -> dict[str, ParallelFeedForward]:
    """The feed-forward layers of a model that have bottlenecks beside them, by the names that they have without."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ParallelFeedForward)}
