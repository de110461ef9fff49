"""An online and an offline adapter: the one that trains, and its slow moving average, both kept.

Every few updates the offline update takes a step towards the online one, `D <- d D + (1 - d) s B A`. The average is of
the product, not of the factors, and stays in factors of rank r: each sum is cut to its r largest singular values. In
the manner of the online and offline modules of Gao et al. 2023, "A Unified Continual Learning Framework with General
Parameter-Efficient Tuning" (LAE), arXiv 2303.10070, which averages the factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from adapt.methods.low_rank.factors import Factors, add, truncate
from adapt.methods.low_rank.layers import factors_of, frozen_parts, lora_layers
from adapt.methods.pruning.recovery import recovered
from adapt.training.companion import Companion

if TYPE_CHECKING:
    from adapt.methods.base import Trained
    from adapt.methods.low_rank.settings import Average

FOLDER = "adapter_offline"


def step_towards(offline: Factors, online: Factors, decay: float) -> Factors:
    """The best approximation of `d D + (1 - d) B A` of the rank of `D`."""
    rank = offline[0].shape[1]
    return truncate(add([(decay * offline[0], offline[1]), ((1 - decay) * online[0], online[1])]), rank)


class Averaging(Companion):
    """Moves the offline adapter; each layer holds its own as `offline`."""

    name: ClassVar[str] = "average"

    def __init__(self, model: Any, settings: Average) -> None:
        self.settings, self.layers = settings, lora_layers(model)
        for layer in self.layers.values():
            layer.adapt_offline = factors_of(layer)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One step of every layer, where it is due."""
        if state.global_step % self.settings.every == 0:
            for layer in self.layers.values():
                layer.adapt_offline = step_towards(layer.adapt_offline, factors_of(layer), self.settings.decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """`<module>/<A or B>`."""
        pairs = [(name, layer.adapt_offline) for name, layer in self.layers.items()]
        return {f"{name}/{part}": tensor for name, pair in pairs for part, tensor in zip("BA", pair, strict=True)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for name, layer in self.layers.items():
            layer.adapt_offline = tensors[f"{name}/B"], tensors[f"{name}/A"]


def save_average(trained: Trained, live: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Write the offline adapter to `folder/adapter_offline` and measure the base with it against the live model.

    Nothing, where no layer has one.
    """
    from adapt.methods.export import measure
    from adapt.methods.low_rank.updates import from_factors, save_updates, trained_updates
    from adapt.methods.streaming import Sum, logits_of_sum

    layers = lora_layers(trained.model)
    if not all(hasattr(layer, "adapt_offline") for layer in layers.values()):
        return {}
    parts = {
        name: recovered(add([layer.adapt_offline, *frozen_parts(layer, whole=True)]), layer.get_base_layer())
        for name, layer in layers.items()
    }
    updates = from_factors(parts, trained_updates(trained.model))
    save_updates(updates, trained.model, folder / FOLDER)
    parts = Sum(trained, adapter=folder / FOLDER, updates=updates)
    return {"offline": measure(live, logits_of_sum(parts, folder / "candidate"))}
