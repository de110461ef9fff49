"""A model of which every process holds a part: DeepSpeed's ZeRO, without a file that would have to be unpickled.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", arXiv 1910.02054. What
trains is laid out in flat float32 tensors, one for each group of the optimiser, and split evenly over the processes
with its gradients and moments (stage 2); in stage 3 every parameter is split as well and gathered for its own layer's
forward and backward pass. DeepSpeed's own checkpoints are pickled, so moments go in and out through it by parameter.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import nn

from adapt.training.plan import Plan
from adapt.training.rows import EmbeddingRows
from adapt.training.sharding import UnderAutocast

_BUCKET = 2**26
"""Numbers that are summed over processes at a time; in float32 these are 268 MB."""


class Engine(nn.Module):
    """DeepSpeed's engine as the trainer calls it: gradients of a batch are final where it is not within `no_sync`."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine
        engine.set_gradient_accumulation_boundary(True)

    def forward(self, *arguments: Any, **others: Any) -> Any:
        """The model's own."""
        return self.engine(*arguments, **others)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of the batches within the block are added to those of the ones after it."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def norm(self) -> torch.Tensor:
        """The norm of all gradients of an update, before they are scaled down; all processes must ask for it."""
        parts = [part for group in self.engine.optimizer.averaged_gradients.values() for part in group]
        total = torch.stack([part.float().square().sum() for part in parts]).sum()
        torch.distributed.all_reduce(total)
        return total.sqrt()


class ZeroOptimizer(torch.optim.Optimizer):
    """The optimiser of a split model: it steps over flat parts, and is read and set by whole parameters.

    `groups` are the parameters of its groups, before DeepSpeed has put flat parts in their place. A state dict is that
    of the same optimiser in one process; all processes must ask for it, the first one gets it.
    """

    def __init__(
        self, engine: Any, optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[nn.Parameter]], main: bool
    ) -> None:
        self._engine, self._flat, self._main = engine, optimizer, main
        self._sizes = [len(group) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group]
        self.defaults = optimizer.defaults

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups with the rates that count."""
        return self._flat.param_groups

    @property
    def state(self) -> Mapping[Any, Any]:
        """Of the flat parts."""
        return self._flat.state

    def step(self, closure: Any = None) -> None:
        """One update; gradients are scaled down first where their norm is too large."""
        self._engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing is left to do: a step takes its gradients away."""

    def state_dict(self) -> dict[str, Any]:
        """Whole moments by the parameter's index."""
        from deepspeed.utils import safe_get_full_optimizer_state

        kept = next(iter(self._flat.state.values()), {})
        numbers = {name: value for name, value in kept.items() if not _is_moment(value)}
        moments = [name for name in kept if name not in numbers]
        state: dict[int, dict[str, Any]] = {}
        self._link()
        for index, parameter in enumerate(self._parameters if kept else ()):
            state[index] = dict(numbers)
            for name in moments:
                moment = safe_get_full_optimizer_state(parameter, name)
                if self._main:
                    state[index][name] = moment.cpu()
        return {"state": state, "param_groups": self._groups()}

    def _groups(self) -> list[dict[str, Any]]:
        ends = [sum(self._sizes[: place + 1]) for place in range(len(self._sizes))]
        return [
            {**{name: value for name, value in group.items() if name != "params"}, "params": [*range(end - size, end)]}
            for group, size, end in zip(self.param_groups, self._sizes, ends, strict=True)
        ]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take whole moments; the groups and their rates stay."""
        stored = state_dict["state"]
        if not stored:
            return
        for flat in self._flat_parts():
            self._flat.state[flat] = {
                name: torch.zeros_like(flat) if _is_moment(value) else copy.deepcopy(value)
                for name, value in next(iter(stored.values())).items()
            }
        self._link()
        for index, parameter in enumerate(self._parameters):
            for name, value in stored.get(index, {}).items():
                if _is_moment(value):
                    _set_moment(parameter, value.to(self._engine.device), name)

    def _link(self) -> None:
        """Let each parameter know where its moments lie. Stage 2 does so after its first group's first step, when the
        other groups have none yet; stage 3 looks when it is asked."""
        zero = self._engine.optimizer
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state") and self._flat.state:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _flat_parts(self) -> list[torch.Tensor]:
        zero = self._engine.optimizer
        stage3 = hasattr(zero, "fp32_partitioned_groups_flat")
        return zero.fp32_partitioned_groups_flat if stage3 else zero.single_partition_of_fp32_groups


def _is_moment(value: Any) -> bool:
    """Whether an entry of a state is a number for each weight, and not one for all of them (the count of steps)."""
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _set_moment(parameter: nn.Parameter, value: torch.Tensor, name: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_id"):
        return safe_set_full_optimizer_state(parameter, value, name)
    size = parameter.ds_tensor.numel()
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    padded = nn.functional.pad(value.flatten(), (0, size * world - value.numel()))
    return safe_set_local_optimizer_state(parameter, padded[rank * size : (rank + 1) * size], name)


def split(model: Any, rows: EmbeddingRows, plan: Plan, device: torch.device) -> tuple[Engine, ZeroOptimizer]:
    """Split a model over all processes, in place, with its optimiser."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else a warning among the run's own lines
    import deepspeed

    optimizer = plan.optimizer.build(model, rows, plan.schedule.peak)
    groups = [list(group["params"]) for group in optimizer.param_groups]
    count = sum(parameter.numel() for group in groups for parameter in group)
    config = settings(plan, count, model.config.get_text_config().hidden_size)
    called = UnderAutocast(model, plan.precision)  # the engine itself would switch autocast off
    if plan.world.zero == 3:
        _to_device_in_parts(called, config, device)
    engine, *_ = deepspeed.initialize(model=called, optimizer=optimizer, config=config, dist_init_required=False)
    return Engine(engine), ZeroOptimizer(engine, optimizer, groups, plan.world.main)


def _to_device_in_parts(model: nn.Module, config: Mapping[str, Any], device: torch.device) -> None:
    """Split one parameter after the other, so that no device ever holds the whole model, which the engine would do."""
    import deepspeed

    deepspeed.init_distributed(dist_init_required=False)
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def settings(plan: Plan, trained: int, width: int) -> dict[str, Any]:
    """The plan in DeepSpeed's words, for a model `width` wide in which so many numbers are `trained`.

    The trainer itself says which batch is the last one of an update, so there is no accumulation here.
    """
    return {
        "train_micro_batch_size_per_gpu": plan.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": plan.optimizer.max_grad_norm,
        "zero_optimization": {
            "stage": plan.world.zero,
            "reduce_bucket_size": min(_BUCKET, trained),
            "stage3_param_persistence_threshold": 10 * width,
        },
        "zero_allow_untested_optimizer": True,
    }
