"""Fine-tuned models drawn towards their base by as much as they disagree."""

from __future__ import annotations

from itertools import combinations

import torch

from merge.methods.base import Block, Blocks, Method, Parameter, Values
from merge.methods.gram import gram, last_dimension, row_products

_LEAST_PRODUCT = 1e-6


class ModelStock(Method):
    """`base + t * mean_i d_i` with `d_i = x_i - base`, `t = N c / (1 + (N - 1) c)`, c the mean cosine of pairs of d.

    Jang et al., "Model Stock: All we need is just a few fine-tuned models" (ECCV 2024, arXiv 2403.19522): the point
    nearest to the centre of the fine-tuned models, if they lie on a sphere about it, in the plane of base and inputs.
    c and t are of the whole tensor, with `filter_wise` of every row (the tensor's last dimension).

    As in mergekit a cosine's divisor is at least 1e-6. Unlike there, t stays within [0, 1]: opposed task vectors
    (c < 0) give the base, where mergekit moves away from the inputs.
    """

    name = "model_stock"
    base = "required"
    arguments = ("base", "models")
    count = (2, None)
    parameters = (
        Parameter("filter_wise", "One ratio for each row instead of one a tensor.", default=False, kind=bool),
    )

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> float | None:
        """The share t of the mean task vector; with `filter_wise` it is found for each row later."""
        if values["filter_wise"]:
            return None
        matrix = torch.tensor(gram(blocks), dtype=torch.float64)
        squares = list(matrix.diagonal())
        return float(_share([matrix[i, j] for i, j in combinations(range(len(squares)), 2)], squares))

    def combine(self, block: Block, values: Values, summary: float | None) -> torch.Tensor:
        """The base plus its share of the mean task vector."""
        if summary is None:
            vectors = block.differences()
            rows = [last_dimension(vector, block.shape) for vector in vectors]
            products = [row_products(left, right) for left, right in combinations(rows, 2)]
            share = _share(products, [row_products(row, row) for row in rows])
            total = _sum(rows).mul_(share.div_(len(rows)).float().unsqueeze(1))
            return block.base.add_(total.view_as(block.base))
        count = len(block.inputs)
        return block.base.add_(_sum(block.inputs).sub_(block.base, alpha=count), alpha=summary / count)


def _sum(tensors: list[torch.Tensor]) -> torch.Tensor:
    first, *others = tensors
    for tensor in others:
        first.add_(tensor)
    return first


def _share(products: list[torch.Tensor], squares: list[torch.Tensor]) -> torch.Tensor:
    """t from the inner products of all pairs and the squared lengths, each a number or one for each row."""
    lengths = [square.sqrt() for square in squares]
    divisors = [(left * right).clamp(min=_LEAST_PRODUCT) for left, right in combinations(lengths, 2)]
    cosines = [(product / divisor).clamp(-1, 1) for product, divisor in zip(products, divisors, strict=True)]
    mean = torch.stack(cosines).mean(dim=0).clamp(min=0)
    return len(squares) * mean / (1 + (len(squares) - 1) * mean)
