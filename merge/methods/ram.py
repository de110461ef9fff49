"""Task vectors summed where one model alone moved, averaged where several did."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from merge.methods.base import Block, Method, Parameter, Values

EPSILON = Parameter("epsilon", "A difference of at most this is no change.", default=1e-5, low=0.0)


class Ram(Method):
    """`base + sum_i m_i d_i / max(1, sum_i m_i)` with `d_i = x_i - base`, `m_i = [|d_i| > epsilon]`, by element.

    Reinforced Agent Merging (arXiv 2601.13572): an element that one model alone changed keeps its whole change, one
    that several changed gets the mean of their changes, with no sign election.
    """

    name = "ram"
    base = "required"
    arguments = ("base", "models")
    parameters = (EPSILON,)

    def combine(self, block: Block, values: Values, summary: None) -> torch.Tensor:
        """The base plus the changes, each shared out among those that made one."""
        changes = block.differences()
        count = mask_changes(changes, values["epsilon"])
        total, *others = changes
        for change in others:
            total.add_(change)
        return block.base.add_(total.div_(count.clamp_(min=1)))


def mask_changes(changes: Sequence[torch.Tensor], epsilon: float) -> torch.Tensor:
    """Zero the elements of at most `epsilon`, in place; float32, how many of the tensors have changed each element."""
    mask, count = torch.empty_like(changes[0]), torch.zeros_like(changes[0])
    for change in changes:
        torch.gt(torch.abs(change, out=mask), epsilon, out=mask)
        change.mul_(mask)
        count.add_(mask)
    return count
