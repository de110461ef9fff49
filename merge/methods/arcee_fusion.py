"""The most important changes of a model, taken over whole into the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from merge.methods.base import Block, Blocks, Method, Values, elements
from merge.methods.gram import last_dimension, row_sums
from merge.selection import Histogram, cuts

_LEAST = 1e-8


class Importance(NamedTuple):
    """How far each row's distribution moved, float32 `[rows]`, and the score from which on an element is taken."""

    divergence: torch.Tensor
    threshold: float


class ArceeFusion(Method):
    """`base + m (x - base)`, `m = [s >= median(s) + 1.5 (q3(s) - q1(s))]`, for each element.

    The score s is `|x - base|` times the divergence `KL(softmax(x) || softmax(base))` of the element's row (the
    tensor's last dimension), each probability raised by 1e-8. Quartiles are those of the tensor's scores, exact at any
    size (mergekit draws 1,000,000 of more), order statistic `floor(q (n - 1))` as there. Arcee's Fusion, as mergekit
    has it. Probabilities are float32 as there, so a divergence of 1e-6 carries a relative error of some percent; one
    that rounding leaves below 0 is 0, and a score that it alone puts beside the threshold may fall on either side.
    """

    name = "arcee_fusion"
    base = "required"
    ancestor = False
    arguments = ("base", "models")
    count = (1, 1)

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Importance:
        """The rows' divergences and the threshold of the scores: two passes."""
        histogram, rows, done = Histogram(), elements(shape) // max(1, shape[-1] if shape else 1), 0
        divergence, ahead = torch.zeros(0), torch.zeros(1)
        for block in blocks():  # into one buffer: small tensors kept among freed blocks leave holes that fit no block
            moved = _divergence(*_rows(block))
            if not done:
                divergence, ahead = moved.new_empty(rows), moved.new_zeros(1)
            divergence[done : done + len(moved)] = moved
            done += len(moved)
            histogram.add(_scores(block, moved)[1])
        histogram.add(ahead)

        def scores() -> Iterator[Sequence[torch.Tensor]]:
            yield [ahead]  # keeps even the smallest score from being the last of the order, which has no cut
            for block in blocks():
                yield [_scores(block, divergence)[1].view(-1)]

        count = elements(shape)
        ranks = [count - part * (count - 1) // 4 for part in (1, 2, 3)]
        (found,) = cuts(scores, [histogram], [ranks])
        bits = torch.tensor([cut.threshold for cut in found], dtype=torch.int32)
        first, median, third = bits.view(torch.float32)
        return Importance(divergence, float(median + 1.5 * (third - first)))

    def combine(self, block: Block, values: Values, summary: Importance) -> torch.Tensor:
        """The base, with the model's element wherever its score reaches the threshold."""
        change, scores = _scores(block, summary.divergence)
        return block.base.add_(change.mul_(torch.ge(scores, summary.threshold, out=scores)).view_as(block.base))


def _rows(block: Block) -> tuple[torch.Tensor, torch.Tensor]:
    return last_dimension(block.inputs[0], block.shape), last_dimension(block.base, block.shape)


def _divergence(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """`KL(softmax(model) || softmax(base))` of each row, float32."""
    p, q = (rows.softmax(dim=1).add_(_LEAST) for rows in (model, base))
    terms = torch.div(p, q, out=q).log_().mul_(p)
    return row_sums(terms).float().clamp_(min=0)


def _scores(block: Block, divergence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x - base`, in place of x, and its scores; `divergence` is that of the block's rows or of the whole tensor's."""
    model, base = _rows(block)
    if len(divergence) > len(model):
        first = block.first * (block.inputs[0].shape[1] // model.shape[1])
        divergence = divergence[first : first + len(model)]
    change = model.sub_(base)
    return change, change.abs().mul_(divergence.unsqueeze(1))
