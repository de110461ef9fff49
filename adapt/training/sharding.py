"""A model of which every process holds a part: FSDP2, without a file that would have to be unpickled.

Each tensor is split along its first dimension over the processes (Zhao et al. 2023, "PyTorch FSDP", arXiv 2304.11277;
in torch `fully_shard`). A block gathers its tensors for its own forward and backward pass; embeddings and head are the
root's, which stay gathered from the forward pass on. Gradients come back summed and split, so an optimiser's moments
are parts as well. A tensor is gathered as a whole only where it is written or checked, one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from adapt.training.plan import Plan
from adapt.training.precision import Precision
from adapt.training.rows import EmbeddingRows
from adapt.training.state import random_states


class UnderAutocast(nn.Module):
    """A model in the precision of the run."""

    def __init__(self, module: Any, precision: Precision) -> None:
        super().__init__()
        self.module, self.precision = module, precision

    def forward(self, *arguments: Any, **others: Any) -> Any:
        """The model's own."""
        with self.precision.autocast():
            return self.module(*arguments, **others)


class Sharded(UnderAutocast):
    """A split model as the trainer calls it: under autocast, and without sums over processes before the last batch of
    an update, as DistributedDataParallel offers it too."""

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients are added up in each process within the block."""
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)


def split(model: Any, rows: EmbeddingRows, plan: Plan, device: torch.device) -> tuple[Sharded, torch.optim.Optimizer]:
    """Split a model over all processes, in place, with its optimiser."""
    shard(model, rows, device, plan.world.size)
    return Sharded(model, plan.precision), plan.optimizer.build(model, rows, plan.schedule.peak)


def shard(model: Any, rows: EmbeddingRows, device: torch.device, processes: int) -> None:
    """Split a model over all processes, in place; `rows` then name the new parameters.

    What hangs on a parameter (its own rate, rows that must not move) is hung on its successor.
    """
    from torch.distributed.fsdp import fully_shard

    before = dict(model.named_parameters())
    held = held_rows(rows)
    mesh = init_device_mesh(device.type, (processes,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    after = dict(model.named_parameters())
    renamed = {id(old): after[name] for name, old in before.items()}
    for name, old in before.items():
        after[name].__dict__.update(old.__dict__)
    rows.parameters = tuple(renamed[id(parameter)] for parameter in rows.parameters)
    rows.tables = tuple(renamed[id(table)] for table in rows.tables)
    for identity, ids in held.items():
        renamed[identity].register_post_accumulate_grad_hook(_still(ids))


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, as transformers names their classes."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]


def held_rows(rows: EmbeddingRows) -> dict[int, torch.Tensor]:
    """For each embedding of which some rows must not move, by the parameter's id: the ids of these rows."""
    weights, moving = (rows.tables, rows.slow) if rows.tables else (rows.parameters, rows.free)
    if moving is None:
        return {}
    found = {}
    for weight in weights:
        mask = torch.ones(weight.shape[0], dtype=torch.bool)
        mask[moving.cpu()] = False
        found[id(weight)] = mask.nonzero().flatten()
    return found


def _still(ids: torch.Tensor) -> Any:
    """A hook that sets the gradient of some rows to zero in the part that this process holds."""

    def hook(parameter: DTensor) -> None:
        mesh = parameter.device_mesh
        part = -(-parameter.shape[0] // mesh.size())
        gradient = parameter.grad.to_local()
        begin = mesh.get_local_rank() * part
        own = ids[(ids >= begin) & (ids < begin + gradient.shape[0])] - begin
        gradient.index_fill_(0, own.to(gradient.device), 0)

    return hook


class Hollow:
    """A copy of a model's structure without its weights, to be filled when the model has been trained in parts."""

    def __init__(self, model: Any, rows: EmbeddingRows) -> None:
        parameters = dict(model.named_parameters())
        empty = {name: nn.Parameter(p.detach().to("meta"), p.requires_grad) for name, p in parameters.items()}
        memo = {id(parameters[name]): empty[name] for name in parameters}
        self._model = copy.deepcopy(model, memo)
        self._rows = replace(
            rows,
            parameters=tuple(memo[id(parameter)] for parameter in rows.parameters),
            tables=tuple(memo[id(table)] for table in rows.tables),
        )
        self._names = {id(parameter): name for name, parameter in empty.items()}
        states = {name: getattr(parameter, "quant_state", None) for name, parameter in parameters.items()}
        self._scales = {name: copy.deepcopy(state) for name, state in states.items() if state is not None}

    def filled(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, EmbeddingRows]:
        """The model with `tensors` as its weights, and its rows."""
        made = {identity: self._made(name, tensors[name]) for identity, name in self._names.items()}
        for module in self._model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = made[id(parameter)].requires_grad_(parameter.requires_grad)
                    if hasattr(made[id(parameter)], "quant_state"):
                        module.quant_state = made[id(parameter)].quant_state
        rows = replace(
            self._rows,
            parameters=tuple(made[id(parameter)] for parameter in self._rows.parameters),
            tables=tuple(made[id(table)] for table in self._rows.tables),
        )
        return self._model, rows

    def _made(self, name: str, tensor: torch.Tensor) -> nn.Parameter:
        """A parameter of the filled model; of 4-bit weights with their scales, which were never split."""
        if name not in self._scales:
            return nn.Parameter(tensor, requires_grad=False)
        from bitsandbytes.nn import Params4bit

        scales = self._scales[name]
        scales.to(tensor.device)
        return Params4bit(tensor, requires_grad=False, quant_state=scales, quant_type="nf4", bnb_quantized=True)


def random_of_all(accelerator: Any, device: torch.device) -> list[bytes]:
    """Each process's random states as the bytes of a safetensors file, by rank; all processes must ask."""
    if accelerator.num_processes == 1:
        return [b""]
    own = torch.frombuffer(bytearray(save(random_states())), dtype=torch.uint8).to(device)
    sizes = accelerator.gather(torch.tensor([len(own)], device=device)).tolist()
    padded = nn.functional.pad(own, (0, max(sizes) - len(own)))
    rows = accelerator.gather(padded.unsqueeze(0)).cpu()
    return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]
