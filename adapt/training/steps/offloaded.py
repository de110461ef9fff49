"""AdamW with its moments in main memory: a GPU holds weights and gradients only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.adamw import adamw


class OffloadedAdamW(torch.optim.Optimizer):
    """torch's fused AdamW on the CPU, parameter after parameter: gradient and weight go there, the weight comes back.

    The idea is that of Ren et al. 2021, "ZeRO-Offload", arXiv 2101.06840. Saves 8 bytes of GPU memory for every number
    that trains, and costs 12 bytes of transfer for it in every update. On a CPU it is AdamW, bit for bit.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = _in_main_memory(parameter), _in_main_memory(parameter)
        weight = parameter.detach().to("cpu", torch.float32)
        gradient = parameter.grad.to("cpu", torch.float32)
        beta1, beta2 = group["betas"]
        adamw(
            [weight],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            parameter.copy_(weight)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Moments stay in main memory (torch would put them where the parameters are)."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, entries in state_dict["state"].items():
            self.state[parameters[index]] = {name: value.to("cpu", copy=True) for name, value in entries.items()}


def _in_main_memory(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Zeros of a parameter's shape, in memory that the GPU can reach where there is one."""
    return torch.zeros(parameter.shape, dtype=torch.float32, pin_memory=parameter.is_cuda)
