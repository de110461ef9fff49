"""The low-rank factors of all adapters beside one linear layer, stacked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Factors:
    """One adapter's update of one linear layer, `scale * b @ a`, with `a [rank, in]` and `b [out, rank]`."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


class Stack(nn.Module):
    """Factors of several adapters as `a [R, in]` and `b [out, R]`, `R` the sum of their ranks.

    `owner [R]` is the index of the adapter of each rank coordinate, `scales [adapters]` their factors. An adapter
    without an update of this layer has no coordinate.
    """

    def __init__(
        self, factors: Mapping[str, Factors | None], size: tuple[int, int], trainable: Collection[str] = ()
    ) -> None:
        """`size` is (in, out) of the layer. The adapters train where `trainable` names them."""
        super().__init__()
        inner, outer = size
        present = [factor for factor in factors.values() if factor is not None]
        ranks = [0 if factor is None else factor.a.shape[0] for factor in factors.values()]
        device = present[0].a.device if present else None
        self.names, self.ranks = tuple(factors), tuple(ranks)
        self.a = nn.Parameter(torch.cat([f.a for f in present]) if present else torch.zeros(0, inner))
        self.b = nn.Parameter(torch.cat([f.b for f in present], 1) if present else torch.zeros(outer, 0))
        for parameter in (self.a, self.b):
            parameter.requires_grad_(bool(trainable))
        owner = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
        scales = torch.tensor([0.0 if factor is None else factor.scale for factor in factors.values()])
        self.register_buffer("owner", owner.to(device), persistent=False)
        self.register_buffer("scales", scales.to(device), persistent=False)

    def factors(self, name: str) -> Factors | None:
        """One adapter's factors as it has them now, or None where it has no update of this layer."""
        index = self.names.index(name)
        begin, rank = sum(self.ranks[:index]), self.ranks[index]
        if rank == 0:
            return None
        span = slice(begin, begin + rank)
        return Factors(self.a.detach()[span], self.b.detach()[:, span], float(self.scales[index]))
