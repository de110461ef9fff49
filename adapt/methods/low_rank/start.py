"""Where an update starts: at zero beside the weight, at a part that is taken out of it, or on its data's main axes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from adapt.checkpoints import ModelLocation, load_model
from adapt.methods.low_rank import factors
from adapt.methods.low_rank.layers import (
    ADAPTER,
    inside,
    is_quantised,
    lora_layers,
    put_factors,
    put_weight,
    quantised,
    weight_of,
)

if TYPE_CHECKING:
    from adapt.methods.base import Batches

Taking = Literal["pissa", "olora", "loftq"]
"""The starts that take a part out of the weight."""


def take_out(model: Any, kind: Taking, location: ModelLocation) -> None:
    """Start every update at a part of its weight, and take that part out of the weight: the model stays the same.

    Over weights in 4 bits the part is that of the weight on the disk, and what remains is quantised; with `loftq` the
    part is the error of quantising itself.
    """
    layers = lora_layers(model)
    originals = _originals(location, list(layers)) if any(map(is_quantised, layers.values())) else {}
    for name, layer in layers.items():
        original = originals.get(name)
        weight = weight_of(layer) if original is None else original.to(layer.lora_A[ADAPTER].weight.device)
        b, a = _part(kind, weight, layer)
        put_factors(layer, (b, a))
        put_weight(layer, weight - b @ a)
        inside(layer).append(factors.negative((b.cpu(), a.cpu())))


def _part(kind: Taking, weight: torch.Tensor, layer: Any) -> factors.Factors:
    rank = layer.r[ADAPTER]
    if kind == "loftq":
        return factors.loftq(weight, rank, partial(_in_four_bits, like=layer.get_base_layer().weight))
    return factors.pissa(weight, rank) if kind == "pissa" else factors.olora(weight, rank)


def _in_four_bits(weight: torch.Tensor, like: Any) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit

    packed = quantised(weight, like)
    return dequantize_4bit(packed.data, packed.quant_state).float()


def _originals(location: ModelLocation, names: list[str]) -> Mapping[str, torch.Tensor]:
    state = load_model(location, torch.float32).state_dict()
    return {name: state[f"{name}.weight"] for name in names}


def explain_variance(model: Any, batches: Batches) -> None:
    """Start A at the main axes of each layer's inputs, and share the ranks out by the variance that they explain.

    Paischer et al. 2024, "EVA", arXiv 2410.07170; peft's incremental SVD over the first batches of the run.
    """
    from peft import initialize_lora_eva_weights

    from adapt.training.loss import inputs_of

    device = next(model.parameters()).device
    data = [{name: value.to(device) for name, value in batch.items()} for batch in batches()]
    initialize_lora_eva_weights(
        model, data, forward_fn=lambda live, batch: live(**inputs_of(batch)), show_progress_bar=False
    )
    model.train()


def keep_a(model: Any) -> None:
    """LoRA-FA: A stays as drawn, and the gradient of B becomes that which moves B A closest to the full gradient.

    `g_B (A A^T)^-1 / s^2`; the layer's input is then not kept for the backward pass. Zhang et al. 2023, arXiv
    2308.03303, with the correction of peft's `create_lorafa_optimizer`.
    """
    for layer in lora_layers(model).values():
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        a.requires_grad_(False)
        b.register_hook(partial(_corrected, a=a, scale=layer.scaling[ADAPTER]))


def _corrected(gradient: torch.Tensor, a: torch.Tensor, scale: float) -> torch.Tensor:
    with torch.autocast(gradient.device.type, enabled=False):
        gram = a.float() @ a.float().T
        gram.diagonal().add_(1e-8)
        return torch.linalg.solve(gram, gradient.float().T).T.to(gradient) / scale**2
