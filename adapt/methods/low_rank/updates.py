"""What an adapter adds to each weight in the end, in peft's names, and as a folder that peft loads."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapt.methods.low_rank.factors import Factors, add
from adapt.methods.low_rank.layers import ADAPTER, factors_of, frozen_parts, lora_layers
from adapt.methods.pruning.recovery import recovered

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Updates:
    """The tensors of a peft file, the factor before B A of each module, and the modules that store `[in, out]`."""

    tensors: Mapping[str, torch.Tensor]
    scales: Mapping[str, float]
    transposed: frozenset[str] = frozenset()
    summed: bool = False
    """Whether these are sums of factors, of scale 1, and not what peft holds itself."""

    def merged(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A base with every update added in float32."""
        from adapt.methods.export import merge_adapter

        return merge_adapter(state, self.tensors, self.scales, self.transposed)


def trained_updates(model: Any) -> Updates:
    """The update of each layer as it trained, with peft's scale."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    layers = lora_layers(model)
    scales = {name: float(layer.scaling[ADAPTER]) for name, layer in layers.items()}
    cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items() if not name.endswith(".rank_gate")}
    return Updates(cpu, scales, frozenset(name for name, layer in layers.items() if layer.fan_in_fan_out))


def live_updates(model: Any) -> Updates:
    """All that the model adds to its weights as they stand in memory."""
    return _summed(model, whole=False)


def total_updates(model: Any) -> Updates:
    """All by which the model differs from the weights on the disk, as an exact sum of factors."""
    return _summed(model, whole=True)


def _summed(model: Any, whole: bool) -> Updates:
    layers = lora_layers(model)
    frozen = {name: frozen_parts(layer, whole) for name, layer in layers.items()}
    gated = any(hasattr(layer, "rank_gate") for layer in layers.values())
    cut = whole and any(hasattr(layer.get_base_layer(), "full_shape") for layer in layers.values())
    if not gated and not cut and not any(frozen.values()):
        return trained_updates(model)
    sums = {name: _without_zeros(add([factors_of(layer), *frozen[name]])) for name, layer in layers.items()}
    if whole:
        sums = {name: recovered(part, layers[name].get_base_layer()) for name, part in sums.items()}
    return from_factors(sums, trained_updates(model))


def _without_zeros(part: Factors) -> Factors:
    """The same update without ranks that add nothing; one rank is kept, for a file may not lack a layer."""
    alive = part[0].any(0) & part[1].any(1)
    alive[0] |= not alive.any()
    return part[0][:, alive].contiguous(), part[1][alive].contiguous()


def from_factors(factors: Mapping[str, Factors], trained: Updates) -> Updates:
    """Factors as updates of scale 1, with what else `trained` holds (magnitudes, transposed modules)."""
    factor = (".lora_A", ".lora_B")
    others = {name: tensor for name, tensor in trained.tensors.items() if not any(part in name for part in factor)}
    tensors = {}
    for name, (b, a) in factors.items():
        tensors |= {f"{_PREFIX}{name}.lora_A.weight": a, f"{_PREFIX}{name}.lora_B.weight": b}
    return Updates(tensors | others, dict.fromkeys(factors, 1.0), trained.transposed, summed=True)


def save_updates(updates: Updates, model: Any, folder: Path) -> None:
    """Write a folder that peft loads over the weights on the disk."""
    if updates.summed:
        write_summed(updates, model.peft_config[ADAPTER], folder)
        return
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a model card with empty sections


def write_summed(updates: Updates, config: Any, folder: Path) -> None:
    """Write sums of factors; `config` is the LoRA configuration that they were trained with."""
    from safetensors.torch import save_file

    ranks = {name: updates.tensors[f"{_PREFIX}{name}.lora_A.weight"].shape[0] for name in updates.scales}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    config = copy.deepcopy(config)
    config.r, config.lora_alpha, config.use_rslora = usual, usual, False
    config.rank_pattern = {name: rank for name, rank in ranks.items() if rank != usual}
    config.alpha_pattern = dict(config.rank_pattern)
    config.init_lora_weights, config.target_modules, config.inference_mode = True, sorted(ranks), True
    config.eva_config = None
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in updates.tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
