"""Parameters that train at a multiple of the learning rate of their group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def set_rate(parameter: torch.nn.Parameter, scale: float) -> None:
    """Let a parameter train at `scale` times its group's rate."""
    parameter.rate_scale = scale


def by_rate(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """An optimiser's groups, split where their parameters have different rates."""
    split = []
    for group in groups:
        scales = [getattr(parameter, "rate_scale", 1.0) for parameter in group["params"]]
        for scale in dict.fromkeys(scales):
            members = [p for p, own in zip(group["params"], scales, strict=True) if own == scale]
            split.append(group | {"params": members, "lr": group["lr"] * scale})
    return split
