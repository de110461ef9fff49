"""Task vectors, averaged where several models moved, and strengthened where one alone did."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import row_sums
from merge.methods.ram import EPSILON, mask_changes


class RamPlus(Method):
    """As `ram`, but what model i alone changed is multiplied by `l_i = 1 + r * min(rho_i, alpha)`.

    `rho_i` = elements that model i and others changed / elements that it alone changed. RAM+ of arXiv 2601.13572, in
    mergekit's tensor-local variant: `rho_i` is counted in the tensor, not in the model. A model with no elements of
    its own has a `rho_i` beyond any alpha.
    """

    name = "ramplus_tl"
    base = "required"
    arguments = ("base", "models")
    parameters = (
        Parameter("r", "Strength of the rescaling.", default=0.1),
        Parameter("alpha", "The largest share that counts.", default=0.2, low=0.0),
        EPSILON,
    )

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[float]:
        """`l_i - 1` of each model."""
        changed: list[float] = []
        alone: list[float] = []
        for block in blocks():
            changes = block.differences()
            unique = torch.eq(count := mask_changes(changes, values["epsilon"]), 1, out=count)
            marks = [change.ne_(0) for change in changes]
            changed = changed or [0.0] * len(marks)
            alone = alone or [0.0] * len(marks)
            for i, mark in enumerate(marks):
                changed[i] += float(row_sums(mark).sum())
                alone[i] += float(row_sums(mark.mul_(unique)).sum())
        shared = [total - own for total, own in zip(changed, alone, strict=True)]
        return [
            values["r"] * (min(both / own, values["alpha"]) if own else values["alpha"] * (both > 0))
            for both, own in zip(shared, alone, strict=True)
        ]

    def combine(self, block: Block, values: Values, summary: list[float]) -> torch.Tensor:
        """The base plus the shared-out changes, the unique ones with their extra."""
        changes = block.differences()
        count = mask_changes(changes, values["epsilon"])
        extra = torch.zeros_like(count)
        for change, strength in zip(changes, summary, strict=True):
            extra.add_(change, alpha=strength)
        extra.mul_(torch.eq(count, 1, out=torch.empty_like(count)))
        total, *others = changes
        for change in others:
            total.add_(change)
        return block.base.add_(total.div_(count.clamp_(min=1))).add_(extra)
