"""From what trained to a plain checkpoint: adapters are added in float32, rounded once, measured and read back."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapt.checkpoints import load_config, load_model, save_checkpoint, verify_checkpoint
from adapt.errors import AdaptError
from adapt.methods.base import Trained
from adapt.training.rows import VOCABULARY_FILE

_ENTRY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(\.weight)?")


def low_rank(delta_b: torch.Tensor, delta_a: torch.Tensor, scale: float) -> torch.Tensor:
    """`s B A`, shape `[out, in]`, in float32 (Hu et al. 2021, "LoRA")."""
    return scale * (delta_b.float() @ delta_a.float())


def magnitude_form(weight: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """`m W / |W|` with the norm of each output row (Liu et al. 2024, "DoRA"); `weight [out, in]`, `magnitude [out]`."""
    return magnitude.float()[:, None] * weight / torch.linalg.norm(weight, dim=1, keepdim=True)


def lora_scale(rank: int, alpha: float, rslora: bool) -> float:
    """`alpha / r`, or `alpha / sqrt(r)` for rank-stabilised LoRA (Kalajdzievski 2023)."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def merge_adapter(
    state: Mapping[str, torch.Tensor],
    adapter: Mapping[str, torch.Tensor],
    scale: float | Mapping[str, float],
    transposed: frozenset[str] = frozenset(),
) -> dict[str, torch.Tensor]:
    """The state with every adapter of a peft file added to its weight, in float32.

    `scale` is one for all modules, or one for each. `transposed` names modules that store `[in, out]` (GPT-2's Conv1D).
    Raises AdaptError for a tensor of the adapter that nothing consumed: the written model would not be the one that was
    trained.
    """
    merged = dict(state)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in adapter.items():
        match = _ENTRY.fullmatch(name)
        if match is None or f"{match['module']}.weight" not in state:
            raise AdaptError(f"the adapter's tensor '{name}' belongs to no weight of the base, so it cannot be merged")
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    for module, tensors in parts.items():
        if not {"A", "B"} <= tensors.keys():
            raise AdaptError(f"the adapter of '{module}' is not whole: it holds {sorted(tensors)} of A and B")
        weight = state[f"{module}.weight"].float()
        weight = weight.T if module in transposed else weight
        weight = weight + low_rank(tensors["B"], tensors["A"], scale[module] if isinstance(scale, Mapping) else scale)
        if "magnitude_vector" in tensors:
            weight = magnitude_form(weight, tensors["magnitude_vector"])
        merged[f"{module}.weight"] = (weight.T if module in transposed else weight).contiguous()
    return merged


def put_rows(state: dict[str, torch.Tensor], trained: Trained) -> dict[str, torch.Tensor]:
    """The state with the embedding rows that trained put in, under both names where the embeddings are tied."""
    tensors = trained.rows.tensors()
    ids = tensors.pop("ids", None)
    for name, rows in tensors.items():
        weight = state[name].float().index_copy(0, ids, rows)
        state = state | dict.fromkeys((name, *trained.rows.again), weight)
    return state


def live_logits(trained: Trained) -> torch.Tensor:
    """Logits of the model as it trained, `[n, length, vocabulary]`, in float32 on the CPU."""
    model = trained.model.eval()
    with torch.inference_mode(), trained.precision.autocast():
        return model(input_ids=trained.probe.to(trained.precision.device), use_cache=False).logits.float().cpu()


def measure(expected: torch.Tensor, logits: torch.Tensor) -> dict[str, float]:
    """How far a written model is from the live one: mean KL(live || written) in nats, share of equal first choices."""
    live, written = expected.log_softmax(-1), logits.log_softmax(-1)
    divergence = (live.exp() * (live - written)).sum(-1).mean()
    agreement = (live.argmax(-1) == written.argmax(-1)).float().mean()
    return {"kl": max(0.0, float(divergence)), "top1_agreement": float(agreement)}


def stored_dtype(trained: Trained) -> torch.dtype:
    """The number format in which the base stands on disk."""
    dtype = getattr(load_config(trained.location), "dtype", None) or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def rounded_model(state: Mapping[str, torch.Tensor], trained: Trained, config: Any = None) -> Any:
    """A fresh base in float32 that holds `state`, each value rounded once to the stored format.

    `config` is that of the state where its shapes are not those of the base.
    """
    dtype = stored_dtype(trained)
    model = load_model(trained.location, torch.float32)
    if config is not None:
        empty = type(model)._from_config(config, dtype=torch.float32)
        empty.generation_config = model.generation_config
        model = empty
    model.load_state_dict({name: tensor.to(dtype).float() for name, tensor in state.items()})
    model.tie_weights()
    return model.eval()


def plain_logits(model: Any, trained: Trained) -> torch.Tensor:
    """Logits of a plain float32 model on the probe."""
    with torch.inference_mode():
        return model(input_ids=trained.probe, use_cache=False).logits


def write_plain(
    state: Mapping[str, torch.Tensor], trained: Trained, folder: Path, config: Any = None
) -> tuple[float, torch.Tensor]:
    """Write the checkpoint, load it back and compare; returns the largest difference and the written model's logits."""
    model = rounded_model(state, trained, config)
    logits = plain_logits(model, trained)
    if trained.stops:
        model.generation_config.eos_token_id = list(trained.stops)
    save_checkpoint(model.to(stored_dtype(trained)), trained.tokenizer, folder)
    source = trained.location.folder
    if source is not None and (source / VOCABULARY_FILE).exists():
        shutil.copyfile(source / VOCABULARY_FILE, folder / VOCABULARY_FILE)
    del model
    return verify_checkpoint(folder, logits, trained.probe), logits
