"""Frozen matrices in 4-bit NormalFloat beside others that train, and what it costs to write the original ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.methods.base import Trained
from adapt.methods.export import measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapt.training.precision import Precision


def hold_frozen(model: PreTrainedModel, precision: Precision) -> int:
    """Put the frozen linear layers of the blocks into NF4 with double quantisation, in place; returns how many.

    Dettmers et al. 2023, "QLoRA", arXiv 2305.14314. Products with them run in the precision of the run, their gradient
    for the input too; a gradient for the weight is never computed. Each matrix goes to the device by itself, so a GPU
    holds no more than the model in the end. Norms, experts in one tensor and other modules than `nn.Linear` stay as
    they are. Raises AdaptError where no matrix is left.
    """
    selection = model.adapt_selection
    names = {unit.name for unit in selection.units if unit.layer is not None} - _training(selection)
    linear = {name: module for name, module in model.named_modules() if name in names and isinstance(module, nn.Linear)}
    if not linear:
        raise AdaptError("frozen: nf4 finds no frozen linear layer in this model; set frozen to plain")
    for name, module in linear.items():
        model.set_submodule(name, _in_four_bits(module, precision))
    return len(linear)


def _training(selection: Any) -> set[str]:
    names = selection.names(0)
    return {unit.name for unit in selection.units if set(unit.parameters) <= names}


def _in_four_bits(module: nn.Linear, precision: Precision) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    device = precision.device
    place = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    layer = Linear4bit(
        module.in_features,
        module.out_features,
        bias=False,
        compute_dtype=precision.dtype,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = Params4bit(
        module.weight.data.contiguous(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer
    ).to(place)
    layer.bias = module.bias
    layer.support_avx512bf16_for_cpu = (
        False  # else an evaluation repacks the weight for inference and ends the training
    )
    return layer


def bits_per_byte(logits: torch.Tensor, ids: torch.Tensor, tokenizer: Any) -> float:
    """Bits per byte of token ids `[n, t]` under logits `[n, t, V]`; the first token of each row is given."""
    targets = ids[:, 1:]
    nats = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="sum")
    size = sum(len(tokenizer.decode(row.tolist()).encode()) for row in targets)
    return float(nats) / math.log(2) / max(1, size)


def exchange(trained: Trained, live: torch.Tensor, written: torch.Tensor, place: Path) -> dict[str, Any]:
    """How far the written model, with the original matrices, is from the one that trained beside those in 4 bits.

    For comparison the same with the 4-bit matrices written out. On held-out text: mean KL of a token in nats, share of
    equal first choices, bits per byte. `live` and `written` are logits on the probe, `[n, t, V]`; at `place` the model
    with the 4-bit matrices is written for a moment.
    """
    from adapt.methods.live_base import dequantised_weights, live_weights
    from adapt.methods.streaming import Sum, logits_of_sum

    in_four_bits = dequantised_weights(trained.model)
    weights = live_weights(trained, trained.model.adapt_selection.trained())
    there = logits_of_sum(Sum(trained, {**weights, **in_four_bits}), place)
    numbers: dict[str, Any] = {"live": {}, "original": measure(live, written), "dequantised": measure(live, there)}
    for name, logits in {"live": live, "original": written, "dequantised": there}.items():
        numbers[name]["bits_per_byte"] = bits_per_byte(logits, trained.probe, trained.tokenizer)
    frozen = sum(unit.category in ("attention", "feed_forward") for unit in trained.model.adapt_selection.units)
    return numbers | {"written": "original", "matrices_in_nf4": len(in_four_bits), "matrices": frozen}
