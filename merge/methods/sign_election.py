"""The election of a sign for each element: TIES's second and third step.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models" (NeurIPS 2023, arXiv 2306.01708).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from merge.methods.base import Values


def elect(
    vectors: Sequence[torch.Tensor], scales: Sequence[float], shares: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(sum_i a_i v_i [agrees], sum_i b_i [agrees])` for scales a, shares b; the vectors are overwritten.

    v_i agrees where its sign is that of `sum_j v_j`, a sum of 0 counting as positive; a 0 never agrees.
    """
    sign = vectors[0].clone()
    for vector in vectors[1:]:
        sign.add_(vector)
    torch.ge(sign, 0, out=sign).mul_(2).sub_(1)
    total, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for vector, scale, share in zip(vectors, scales, shares, strict=True):
        total.add_(vector.mul_(sign).clamp_(min=0), alpha=scale)
        divisor.add_(vector.sign_(), alpha=share)
    return total.mul_(sign), divisor


def add_elected(base: torch.Tensor, vectors: Sequence[torch.Tensor], values: Values) -> torch.Tensor:
    """`base + lambda * sum of the w_i v_i that agree`, with `normalize` divided by the sum of their `|w_i|`; in place.

    mergekit divides by the sum of the w_i themselves, which is the same unless a weight is negative: there a vector
    that is to be subtracted would be added (w v / w = v), and weights of 1 and -0.999 would scale their elements by
    1000. The sum of magnitudes keeps every element of the result within the largest that went in.
    """
    weights = values["weight"]
    weighted = [vector.mul_(weight) for vector, weight in zip(vectors, weights, strict=True)]
    total, divisor = elect(weighted, [1.0] * len(weights), [abs(weight) for weight in weights])
    if values["normalize"]:
        nobody = torch.eq(divisor, 0, out=weighted[0])
        total.div_(divisor.add_(nobody))
    return base.add_(total.mul_(values["lambda"]))
