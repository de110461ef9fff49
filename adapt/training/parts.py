"""Tensors of which every process holds a part: as a whole where they are written, in parts where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all its parts; all processes must ask for it. One that is not split is given back."""
    if hasattr(tensor, "ds_id"):  # ZeRO's stage 3
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor | None:
    """The whole gradient of an update, as `whole`."""
    if hasattr(parameter, "ds_id"):
        return parameter._z3_optimizer.get_fp32_grad_for_param(parameter)
    if hasattr(parameter, "get_full_hp_grad"):  # ZeRO's stage 2
        return parameter.get_full_hp_grad()
    return None if parameter.grad is None else whole(parameter.grad)


def split_like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, split as `model` is; whole where `model` is whole or of another shape."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    tensor = tensor.to(model.device)
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors, one gathered after the other; empty where this process does not `keep` them."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor).detach()
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) or hasattr(tensor, "ds_id") else full
    return found


def gathered_state(state: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """An optimiser's state dict with whole tensors."""

    def full(entries: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
        return {**entries, **gathered(tensors, keep)}

    parts = state["state"].items()
    return {**state, "state": {index: full(entries) for index, entries in parts}}


def split_state(state: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """An optimiser's state dict of whole tensors as that of this process, whose parameters are in `groups`."""
    parameters = [parameter for group in groups for parameter in group["params"]]

    def part(value: Any, parameter: torch.Tensor) -> Any:
        return split_like(value, parameter) if isinstance(value, torch.Tensor) else value

    found = {
        index: {name: part(value, parameters[index]) for name, value in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": found}
