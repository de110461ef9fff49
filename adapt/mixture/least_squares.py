"""The change of a feed-forward layer's last projection that comes closest to the bottlenecks beside the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adapt.evaluation.bits_per_byte import evaluating
from adapt.mixture.bottleneck import ParallelFeedForward
from adapt.mixture.feed_forward import FeedForward

_RIDGE = 1e-3
"""On the diagonal, as a part of its mean: channels that hardly ever speak get no large weights."""


class _Sums:
    """`H^T H`, `H^T A` and `|A|^2` over tokens, of the channels `H [tokens, n]` and the output `A [tokens, hidden]`."""

    def __init__(self) -> None:
        self.squares: torch.Tensor | float = 0.0
        self.products: torch.Tensor | float = 0.0
        self.output = 0.0

    def add(self, channels: torch.Tensor, output: torch.Tensor) -> None:
        channels, output = channels.flatten(0, -2).float(), output.flatten(0, -2).float()
        self.squares = self.squares + channels.T @ channels
        self.products = self.products + channels.T @ output
        self.output += float(output.square().sum())

    def solved(self) -> tuple[torch.Tensor, float, float]:
        """The change `[hidden, n]`, what it misses, `|A - H D^T|^2`, and `|A|^2`."""
        ridge = _RIDGE * self.squares.diagonal().mean()
        change = torch.linalg.solve(self.squares + ridge * torch.eye(len(self.squares)).to(ridge), self.products)
        missed = self.output - 2 * (change * self.products).sum() + (change * (self.squares @ change)).sum()
        return change.T.contiguous().cpu(), max(0.0, float(missed)), self.output


def absorbed(
    model: Any,
    layers: Sequence[FeedForward],
    parallel: Mapping[str, ParallelFeedForward],
    batches: Callable[[], Iterable[Mapping[str, Any]]],
) -> tuple[dict[str, torch.Tensor], float]:
    """For each layer the change `D` of its last projection with the least `sum |A - D h|^2` over the batches.

    `h` are the layer's channels, `A` what its bottlenecks add, with their gates as they are, both of the live model.
    Also returns the share of `|A|^2` that is lost, over all layers.
    """
    sums = {name: _Sums() for name in parallel}
    hooks: list[Any] = []
    for layer in layers:
        if layer.name in parallel:
            hooks += _watch(layer, parallel[layer.name], sums[layer.name])
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches():
                inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
                model(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    solved = {name: entry.solved() for name, entry in sums.items()}
    whole = sum(output for _, _, output in solved.values())
    return {name: change for name, (change, _, _) in solved.items()}, sum(m for _, m, _ in solved.values()) / whole


def _watch(layer: FeedForward, parallel: ParallelFeedForward, sums: _Sums) -> list[Any]:
    """Hooks that keep a layer's channels until its bottlenecks have spoken."""
    seen: dict[str, torch.Tensor] = {}
    found: list[torch.Tensor] = []

    def channels(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["channels"] = inputs[0]

    def spoken(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(output)

    def done(module: nn.Module, inputs: Any, output: Any) -> None:
        sums.add(seen.pop("channels"), sum(found))
        found.clear()

    units = [part for part in (parallel.domains, parallel.task) if part is not None]
    hooks = [getattr(layer.module, layer.down).register_forward_pre_hook(channels)]
    hooks += [unit.register_forward_hook(spoken) for unit in units]
    return [*hooks, parallel.register_forward_hook(done)]
