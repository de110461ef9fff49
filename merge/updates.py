"""What an adapter adds to one tensor, row by row: nothing, a product of two factors, or what was trained and saved."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from merge.errors import MergeError
from merge.formula import Leaf
from merge.hashes import Hashes
from merge.operands import Inputs, LeafOperand, Operand, Target, operand

if TYPE_CHECKING:
    from merge.adapters import Adapter


class NoUpdate(Operand):
    """Zero, everywhere."""

    def __init__(self, target: Target, inputs: Inputs) -> None:
        self.target, self.dtype, self.device = target, inputs.accumulate, inputs.device

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(last - first, self.target.width, dtype=self.dtype, device=self.device)

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """Nothing is added."""


class LowRankUpdate(Operand):
    """`left[rows] right`, with `left [n, r]` and `right [r, c]`."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor, rows: torch.Tensor | None, target: Target) -> None:
        self.target, self.left, self.right, self.wanted = target, left, right, rows

    def _left(self, first: int, last: int) -> torch.Tensor:
        if self.wanted is None:
            return self.left[first:last]
        rows = self.wanted[first:last].to(self.left.device)
        return self.left[rows.clamp(min=0)] * (rows >= 0).unsqueeze(1)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the product."""
        return self._left(first, last) @ self.right

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """One matrix product into the sum."""
        total.addmm_(self._left(first, last), self.right, alpha=weight)


class DoraUpdate(Operand):
    """`m (W + s B A) / |W + s B A| - W`, the norm along each row (Liu et al. 2024, arXiv 2402.09353)."""

    def __init__(
        self, left: torch.Tensor, right: torch.Tensor, magnitude: torch.Tensor, base: Operand, target: Target
    ) -> None:
        self.target, self.left, self.right, self.base = target, left, right, base
        self.magnitude = magnitude.reshape(-1).to(left.dtype)
        if len(self.magnitude) != target.height:
            raise MergeError(f"the DoRA magnitudes of '{target.name}' are {len(self.magnitude)}, not {target.height}")

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the update."""
        weight = self.base.rows(first, last)
        moved = torch.addmm(weight, self.left[first:last], self.right)
        size = self.magnitude[first:last] / moved.norm(dim=1)
        return moved.mul_(size.unsqueeze(1)).sub_(weight)


class WholeUpdate(Operand):
    """A tensor that was trained and saved whole, less the base's; read from the adapter's file block by block."""

    def __init__(self, adapter: Adapter, module: str, base: str, target: Target, inputs: Inputs) -> None:
        self.target, self.name, self.tensor = target, adapter.name, adapter.parts[module]["whole"]
        self.base = operand(Leaf(base), target, inputs)
        own = replace(
            inputs,
            checkpoints={**inputs.checkpoints, adapter.name: adapter},
            sources={**inputs.sources, adapter.name: inputs.sources[base]} if target.by_token else inputs.sources,
            name_in={**inputs.name_in, adapter.name: self.tensor},
            hashes=Hashes(),
        )
        self.saved = LeafOperand(adapter.name, target, own)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the difference; none for tokens that the adapter's base lacks."""
        saved = self.saved.rows(first, last)
        if not math.isfinite(float(saved.sum())):
            raise MergeError(f"'{self.name}' holds NaN or infinity in '{self.tensor}'; nothing was written")
        return saved.sub_(self.base.rows(first, last))


class SumOfUpdates(Operand):
    """Several updates of one tensor: a copy of the layer that was saved with an adapter's factors beside it."""

    def __init__(self, updates: list[Operand]) -> None:
        self.target, self.updates = updates[0].target, updates

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Their sum."""
        head, *rest = self.updates
        total = head.rows(first, last)
        for update in rest:
            update.add_to(total, 1.0, first, last)
        return total
