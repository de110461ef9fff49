"""Task arithmetic: models plus weighted differences of models."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def task_arithmetic(
    start: torch.Tensor,
    vectors: Sequence[tuple[float, torch.Tensor, torch.Tensor]],
    accumulate: torch.dtype = torch.float32,
) -> torch.Tensor:
    """`start + sum_i w_i * (a_i - b_i)` for `(w_i, a_i, b_i)` in `vectors`, all of one shape, in `accumulate`.

    Ilharco et al., "Editing Models with Task Arithmetic" (ICLR 2023, arXiv 2212.04089); with start = a continued
    pre-training and a - b = instruct - base this is the chat vector (Huang et al., arXiv 2310.04799) and the
    instruction residual (arXiv 2410.10739). Differences are taken before they are weighted, and nothing is rounded to
    the inputs' type in between: the caller rounds once.
    """
    total = start.to(accumulate, copy=True)
    for weight, minuend, subtrahend in vectors:
        total.add_(minuend.to(accumulate) - subtrahend.to(accumulate), alpha=weight)
    return total
