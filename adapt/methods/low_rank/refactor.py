"""Restarts of an update within a run: what was learned goes into the weight, and a new update begins at zero.

After k restarts the model differs from its base by the sum of k + 1 updates of rank r, of a rank of up to (k + 1) r,
though only one of them had gradients and moments at a time. Lialin et al. 2023, "ReLoRA", arXiv 2307.05695. A is drawn
anew and B is zero, so that gradients flow from the next step on; an update that is still zero is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from adapt.errors import AdaptError
from adapt.methods.low_rank.conflicts import unprunable
from adapt.methods.low_rank.factors import Factors
from adapt.methods.low_rank.layers import (
    ADAPTER,
    factors_of,
    inside,
    is_quantised,
    lora_layers,
    put_beside,
    put_weight,
    weight_of,
)
from adapt.training.companion import Companion

if TYPE_CHECKING:
    from adapt.methods.low_rank.settings import Refactor
    from adapt.training.run import Run


class Restarts(Companion):
    """Restarts every layer's update after each `every` updates of the run.

    Weights in float32 take the update up (bf16 ones are held in float32 from the beginning, for bf16 would round much
    of an update away); beside weights in 4 bits it is kept in float32. The finished updates are part of a checkpoint,
    and going on adds them again one by one, in the same order: bit for bit.
    """

    name: ClassVar[str] = "restarts"

    def __init__(self, model: Any, settings: Refactor, seed: int) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self.layers = lora_layers(model)
        self.finished: list[dict[str, Factors]] = []

    def prepare(self, run: Run) -> None:
        """Hold the weights in float32. Raises AdaptError for a run too short, or moments that cannot be pruned."""
        every, steps = self.settings.every, run.plan.steps
        if every >= steps:
            raise AdaptError(
                f"refactor.every is {every}, but the run has {steps} updates, so nothing would ever be restarted; "
                f"set it to at most {steps - 1}, or leave refactor out"
            )
        for message in unprunable(self.settings, run.plan.optimizer):
            raise AdaptError(message)
        for layer in self.layers.values():
            if not is_quantised(layer):
                weight = layer.get_base_layer().weight
                weight.data = weight.data.float()

    def rate(self, update: int) -> float:
        """Linear warm-up after each restart."""
        since = update % self.settings.every
        return 1.0 if update < self.settings.every else min(1.0, (since + 0.5) / max(1, self.settings.warmup))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Restart where one is due, but never after the last update: the new one would stay zero."""
        step = state.global_step
        if step % self.settings.every or step >= self.trainer.plan.steps:
            return
        parts = {name: factors_of(layer) for name, layer in self.layers.items()}
        parts = {name: part for name, part in parts.items() if part[0].any()}
        self._put(parts)
        self.finished.append(parts)
        for name in parts:
            self._begin(name, step)

    def _put(self, parts: Mapping[str, Factors]) -> None:
        for name, (b, a) in parts.items():
            layer = self.layers[name]
            if is_quantised(layer):
                put_beside(layer, (b, a))
                continue
            weight = weight_of(layer)
            put_weight(layer, weight + (b.to(weight) @ a.to(weight)))
            inside(layer).append((b, a))

    def _begin(self, name: str, step: int) -> None:
        """B zero, A drawn anew from a generator of its own, moments pruned."""
        layer = self.layers[name]
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        digest = blake2b(f"{self.seed} {step} {name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
        drawn = torch.empty(a.shape)
        torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            a.copy_(drawn)
            b.zero_()
        for parameter in (a, b):
            prune_moments(self.trainer.optimizer, parameter, self.settings.prune, generator)

    def changed(self) -> set[str]:
        """The weights that took updates up, or what was kept beside them."""
        found = set()
        for name in {name for parts in self.finished for name in parts}:
            taken_up = ("beside_a", "beside_b") if is_quantised(self.layers[name]) else ("base_layer.weight",)
            found |= {f"base_model.model.{name}.{suffix}" for suffix in taken_up}
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        """`<restart>/<module>/<A or B>`."""
        return {
            f"{index}/{name}/{part}": tensor
            for index, parts in enumerate(self.finished)
            for name, factors in parts.items()
            for part, tensor in zip("BA", factors, strict=True)
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put the finished updates in, in their order."""
        parts: dict[int, dict[str, Factors]] = {}
        for key in tensors:
            index, name, part = key.split("/")
            if part == "B":
                parts.setdefault(int(index), {})[name] = tensors[key], tensors[f"{index}/{name}/A"]
        for index in sorted(parts):
            ordered = {name: parts[index][name] for name in self.layers if name in parts[index]}
            self._put(ordered)
            self.finished.append(ordered)

    def numbers(self) -> dict[str, Any]:
        """How often the updates were restarted."""
        return {"restarts": len(self.finished)}


def prune_moments(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, share: float, generator: torch.Generator
) -> None:
    """Set a random share of a parameter's moments to zero; all of its state is dropped where the share is 1.

    The same entries of all moments are kept. Adam's count of steps goes on unless everything is dropped.
    """
    if share >= 1:
        optimizer.state.pop(parameter, None)
        return
    kept = torch.rand(parameter.shape, generator=generator) >= share
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            value.mul_(kept.to(value))
