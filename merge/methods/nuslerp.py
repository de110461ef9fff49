"""Spherical interpolation between two models or two task vectors, of whole tensors, rows or columns."""

from __future__ import annotations

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import combination, gram, last_dimension, points, row_products

_NO_LENGTH = 1e-7
_NO_SUM = 1e-6
_COLLINEAR = 1e-6
"""The squared sine below which two vectors are interpolated linearly: at a small angle the two agree to 1e-7."""


class NuSlerp(Method):
    """`sin((1 - t) a) / sin(a) * v_0 + sin(t a) / sin(a) * v_1` with `t = w_1 / (w_0 + w_1)` and the angle a of v.

    Slerp by weights, as in mergekit. v are the models, or with a base their task vectors, which are added to it. The
    angle is one for the whole tensor; without `nuslerp_flatten` one for each row (vectors along the last dimension), or
    with `nuslerp_row_wise` one for each column (vectors along the first). t is 1/2 where `|w_0 + w_1| < 1e-6`.

    Collinear vectors are interpolated linearly, and unlike in mergekit so are opposed ones whose angle is within 1e-3
    of pi: there the result would be rounding times a thousand and more.
    """

    name = "nuslerp"
    base = "optional"
    count = (2, 2)
    parameters = (
        Parameter("weight", "How much of this model.", each=True),
        Parameter("nuslerp_flatten", "One angle for the whole tensor.", default=True, kind=bool),
        Parameter(
            "nuslerp_row_wise",
            "Without nuslerp_flatten: one angle for each column instead of one for each row.",
            default=False,
            kind=bool,
        ),
    )

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> list[torch.Tensor] | None:
        """The coefficients of both inputs: of the tensor, of each column, or None if they are found for each row."""
        if values["nuslerp_flatten"]:
            (first, product), (_, second) = gram(blocks)
            products = torch.tensor([product, first, second], dtype=torch.float64)
        elif values["nuslerp_row_wise"] and len(shape) > 1:
            products = _column_products(blocks)
        else:
            return None
        return _coefficients(*products, _place(values))

    def combine(self, block: Block, values: Values, summary: list[torch.Tensor] | None) -> torch.Tensor:
        """The interpolated vectors, added to the base if there is one."""
        vectors = points(block)
        if values["nuslerp_flatten"]:
            result = combination(vectors, [float(coefficient) for coefficient in summary])
        elif summary is None:
            result = _by_row(vectors, block.shape, _place(values))
        else:
            result = _scaled_sum(vectors, summary)
        return result if block.base is None else block.base.add_(result)


def _place(values: Values) -> float:
    """t from the weights."""
    first, second = values["weight"]
    return 0.5 if abs(first + second) < _NO_SUM else second / (first + second)


def _coefficients(
    product: torch.Tensor, first: torch.Tensor, second: torch.Tensor, t: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What to multiply the vectors by, from their inner products and squared lengths, float64 of any one shape."""
    lengths = [square.sqrt().clamp(min=_NO_LENGTH) for square in (first, second)]
    similarity = (product / lengths[0] / lengths[1]).clamp(-1, 1)
    collinear = 1 - similarity.square() <= _COLLINEAR
    angle = torch.acos(similarity.masked_fill(collinear, 0))
    left, right = (torch.sin(share * angle) / torch.sin(angle) for share in (1 - t, t))
    return left.masked_fill(collinear, 1 - t), right.masked_fill(collinear, t)


def _scaled_sum(vectors: list[torch.Tensor], coefficients: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    left, right = (vector.mul_(factor.float()) for vector, factor in zip(vectors, coefficients, strict=True))
    return left.add_(right)


def _by_row(vectors: list[torch.Tensor], shape: tuple[int, ...], t: float) -> torch.Tensor:
    left, right = (last_dimension(vector, shape) for vector in vectors)
    products = row_products(left, right), row_products(left, left), row_products(right, right)
    factors = _coefficients(*products, t)
    return _scaled_sum([left, right], [factor.unsqueeze(1) for factor in factors]).view_as(vectors[0])


def _column_products(blocks: Blocks) -> torch.Tensor:
    """`<v_0, v_1>`, `|v_0|^2` and `|v_1|^2` of each column, float64 `[3, c]`, row added to row whatever the blocks."""
    total: torch.Tensor | None = None
    for block in blocks():
        left, right = points(block)
        if total is None:
            total = torch.zeros(3, left.shape[1], dtype=torch.float64, device=left.device)
        for a, b in zip(left, right, strict=True):
            total += torch.stack([a * b, a * a, b * b])
    return total
