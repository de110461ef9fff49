"""peft's LoRA layers seen from outside: their weight as it stands, their factors, and what was moved between the two.

The weight that a layer multiplies with is `W + sum(inside)` with W as it lies on the disk: an initialisation takes a
part of W out and a restart puts a finished update in. Over a weight in 4 bits a restart keeps finished updates beside
it, in `beside`: to quantise the sum would round the update away (measured over a LoRA of a whole run, of 6 % of the
weights' norm: the error of quantising again is 97 % of the update's norm).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from adapt.methods.base import plain_model
from adapt.methods.low_rank.factors import Factors, add

ADAPTER = "default"


def lora_layers(model: Any) -> dict[str, LoraLayer]:
    """The layers with an update, by the name of the module in the plain model."""
    return {name: module for name, module in plain_model(model).named_modules() if isinstance(module, LoraLayer)}


def is_quantised(layer: LoraLayer) -> bool:
    """Whether the layer's weight is in 4 bits."""
    return hasattr(layer.get_base_layer().weight, "quant_state")


def weight_of(layer: LoraLayer) -> torch.Tensor:
    """The weight `[out, in]` in float32, as the layer multiplies with it."""
    weight = layer.get_base_layer().weight
    if is_quantised(layer):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state).float()
    return (weight.data.T if layer.fan_in_fan_out else weight.data).float()


def quantised(weight: torch.Tensor, like: Any) -> Any:
    """A weight in 4 bits, in the manner of another one."""
    from bitsandbytes.nn import Params4bit

    settings = {"quant_type": like.quant_type, "compress_statistics": like.compress_statistics}
    return Params4bit(weight.to("cpu"), requires_grad=False, module=like.module, **settings).to(like.device)


def put_weight(layer: LoraLayer, weight: torch.Tensor) -> None:
    """Give a layer another weight `[out, in]`, rounded to its format."""
    base = layer.get_base_layer()
    if is_quantised(layer):
        base.weight = quantised(weight, base.weight)
        return
    weight = weight.T if layer.fan_in_fan_out else weight
    base.weight.data = weight.to(base.weight).contiguous()


def put_factors(layer: LoraLayer, part: Factors) -> None:
    """Give a layer an update, in place."""
    with torch.no_grad():
        layer.lora_B[ADAPTER].weight.copy_(part[0] / layer.scaling[ADAPTER])
        layer.lora_A[ADAPTER].weight.copy_(part[1])


def factors_of(layer: LoraLayer) -> Factors:
    """The update that trains, on the CPU: `s B diag(g)`, `A` with the gates g of its ranks, if it has such."""
    a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].weight.detach().float().cpu()
    gate = getattr(layer, "rank_gate", None)
    b = b if gate is None else b * gate.detach().float().cpu()
    return layer.scaling[ADAPTER] * b, a.weight.detach().float().cpu().clone()


def inside(layer: LoraLayer) -> list[Factors]:
    """What the layer's weight holds beyond the weight on the disk; to be appended to."""
    if not hasattr(layer, "adapt_inside"):
        layer.adapt_inside = []
    return layer.adapt_inside


def beside(layer: LoraLayer) -> list[Factors]:
    """Frozen updates that the layer adds to its output."""
    b, a = getattr(layer, "beside_b", None), getattr(layer, "beside_a", None)
    return [] if b is None or a is None else [(b.cpu(), a.cpu())]


def put_beside(layer: LoraLayer, part: Factors) -> None:
    """Let a layer add one more frozen update to its output."""
    if not hasattr(layer, "beside_a"):
        layer.register_forward_hook(_add_beside)
    device = layer.lora_A[ADAPTER].weight.device
    b, a = (tensor.to(device) for tensor in add([*beside(layer), part]))
    layer.register_buffer("beside_b", b, persistent=False)
    layer.register_buffer("beside_a", a, persistent=False)


def _add_beside(layer: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    x = arguments[0]
    product = nn.functional.linear(nn.functional.linear(x, layer.beside_a.to(x)), layer.beside_b.to(x))
    return output + product.to(output)


def frozen_parts(layer: LoraLayer, whole: bool) -> list[Factors]:
    """What is added besides the update that trains: to the weight on the disk (`whole`), or to the live one."""
    return [*beside(layer), *(inside(layer) if whole else ())]
