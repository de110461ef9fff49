"""Whether models come from one ancestor, judged on a sample of their weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from merge.checkpoint import Checkpoint
from merge.errors import MergeError
from merge.planning import Merge

RELATED = 0.3
"""Cosine below which two models are said to be strangers; independently trained weights have about 0."""
_TENSORS, _ELEMENTS = 8, 2**14


def check_ancestry(merge: Merge) -> None:
    """Raise MergeError where the weights of two models that are set against each other do not look alike.

    A difference of strangers is no task vector: it erases one model and adds noise of its size. Compared are the first
    elements of a few matrices, a pass of milliseconds.
    """
    for left, right in _pairs(merge):
        cosine = similarity(merge.checkpoints[left], merge.checkpoints[right])
        if cosine < RELATED:
            raise MergeError(
                f"'{left}' and '{right}' are no relatives: on a sample, the cosine of their weights is {cosine:.2f}; "
                "give the model that both were trained from, or allow it (--unrelated, in a recipe unrelated: true)"
            )


def _pairs(merge: Merge) -> Iterator[tuple[str, str]]:
    found = {tuple(sorted((v.minuend, v.subtrahend))) for v in merge.roles.vectors}
    yield from sorted((a, b) for a, b in found if a != b)


def similarity(left: Checkpoint, right: Checkpoint) -> float:
    """The least cosine over a sample of matrices that both have, 1 where there is none."""
    names = [
        name
        for name, info in left.tensors.items()
        if len(info.shape) > 1
        and name in right.tensors
        and info.shape == right.tensors[name].shape
        and not left.is_vocabulary(name)
        and info.dtype.is_floating_point
    ]
    chosen = [names[index * len(names) // _TENSORS] for index in range(_TENSORS)] if names else []
    cosines = [_cosine(left.tensor(name), right.tensor(name)) for name in dict.fromkeys(chosen)]
    return sum(cosines) / len(cosines) if cosines else 1.0


def _cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    a, b = (tensor.reshape(-1)[:_ELEMENTS].float() for tensor in (left, right))
    size = float(a.norm() * b.norm())
    return float(torch.dot(a, b)) / size if size else 1.0
