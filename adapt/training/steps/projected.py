"""AdamW of which matrices may keep their moments in a projection: what GaLore and APOLLO have in common.

Gradients `[m, n]` are seen with the smaller side first, `m <= n`; `P [r, m]` has the directions as rows, so that the
moments of `P G` are `[r, n]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch


class ProjectedAdamW(torch.optim.Optimizer, ABC):
    """AdamW; matrices with more than `rank` rows and columns that are not among `whole` have a direction of their own.

    A parameter's state are `step`, `exp_avg`, `exp_avg_sq`, and where it is projected `projection [r, m]`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        whole: frozenset[int],
        rank: int,
        every: int,
        scale: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.whole, self.rank, self.every, self.scale = whole, rank, every, scale
        self.betas, self.eps = betas, eps

    @abstractmethod
    def directions(self, gradient: torch.Tensor, place: int, update: int) -> torch.Tensor:
        """`P [r, m]` for a gradient `[m, n]`; `place` is the parameter's index, `update` counts from 0."""

    @abstractmethod
    def direction(self, gradient: torch.Tensor, projection: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        """The update `[m, n]`, before the learning rate, of a gradient `[m, n]`."""

    def is_projected(self, parameter: torch.Tensor) -> bool:
        """Whether a parameter's moments are smaller than itself."""
        return parameter.dim() == 2 and min(parameter.shape) > self.rank and id(parameter) not in self.whole

    def adam(self, gradient: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        """`m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)` after taking the gradient into the moments of `state`."""
        beta1, beta2 = self.betas
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        first = state["exp_avg"].lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = int(state["step"])
        root = (second / (1 - beta2**step)).sqrt_().add_(self.eps)
        return first / (1 - beta1**step) / root

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update of every parameter that has a gradient."""
        place = -1
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["step"] = int(state.get("step", 0)) + 1
                gradient = parameter.grad.float()
                moved = (
                    self._projected(gradient, state, place)
                    if self.is_projected(parameter)
                    else self.adam(gradient, state)
                )
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(moved.to(parameter.dtype), alpha=-group["lr"])

    def _projected(self, gradient: torch.Tensor, state: dict[str, Any], place: int) -> torch.Tensor:
        turned = gradient.shape[0] > gradient.shape[1]
        gradient = gradient.T if turned else gradient
        update = state["step"] - 1
        if "projection" not in state or update % self.every == 0:
            state["projection"] = self.directions(gradient, place, update)
        moved = self.direction(gradient, state["projection"], state)
        return moved.T if turned else moved
