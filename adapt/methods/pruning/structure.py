"""The parts of a decoder that can go as one: a key-value head with its query heads, a channel of a feed-forward layer.

    attention   rows of q, k, v and columns of o     `[heads, positions of a head]`
    channels    rows of gate and up, columns of down

With grouped queries a key-value head goes with all query heads that share it, so that the groups stay even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt.errors import AdaptError

_ATTENTION, _CHANNELS = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Kept:
    """Coordinates of a linear layer, in its weight `[out, in]`; None for all."""

    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight at these coordinates."""
        weight = weight if self.rows is None else weight[self.rows.to(weight.device)]
        return (weight if self.columns is None else weight[:, self.columns.to(weight.device)]).contiguous()


@dataclass(frozen=True)
class Family:
    """The parts of one kind in one layer: `count` of them, and where each lies in each linear layer.

    `rows[name]` and `columns[name]` are `[count, width]`: the coordinates of each part in the module `name`.
    """

    count: int
    rows: dict[str, torch.Tensor]
    columns: dict[str, torch.Tensor]

    def kept(self, parts: torch.Tensor) -> dict[str, Kept]:
        """The coordinates that some parts have in each module."""
        found = {name: Kept(rows=places[parts].flatten()) for name, places in self.rows.items()}
        return found | {name: Kept(columns=places[parts].flatten()) for name, places in self.columns.items()}

    def sums(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """The sum of `values[name] [out, in]` over each part, over all modules: `[count]`."""
        rows = [values[name].sum(1)[places].sum(1) for name, places in self.rows.items()]
        return sum(rows + [values[name].sum(0)[places].sum(1) for name, places in self.columns.items()])

    def modules(self) -> set[str]:
        """The names of the linear layers."""
        return {*self.rows, *self.columns}


def families(model: Any) -> list[tuple[Family, Family]]:
    """Heads and channels of each layer. Raises AdaptError for an architecture whose parts lie otherwise."""
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for layer in model.base_model.layers:
        attention, channels = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
        plain = _linear(attention, _ATTENTION) and _linear(channels, _CHANNELS) and hasattr(attention, "head_dim")
        if not plain:
            raise AdaptError(
                f"layer {len(found)} of '{model.config.model_type}' cannot be pruned: it has no separate "
                f"{', '.join((*_ATTENTION, *_CHANNELS))}; use lora or qlora"
            )
        found.append((_heads(attention, names[id(attention)]), _channels(channels, names[id(channels)])))
    return found


def _linear(module: nn.Module | None, names: tuple[str, ...]) -> bool:
    return module is not None and all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def _heads(attention: Any, name: str) -> Family:
    size = attention.head_dim
    count = attention.k_proj.out_features // size
    keys, queries = (
        torch.arange(projection.out_features).reshape(count, -1) for projection in (attention.k_proj, attention.q_proj)
    )
    rows = {f"{name}.q_proj": queries, f"{name}.k_proj": keys, f"{name}.v_proj": keys}
    return Family(count, rows, {f"{name}.o_proj": queries})


def _channels(feed_forward: Any, name: str) -> Family:
    places = torch.arange(feed_forward.down_proj.in_features).reshape(-1, 1)
    return Family(len(places), {f"{name}.{part}": places for part in _CHANNELS[:2]}, {f"{name}.down_proj": places})
