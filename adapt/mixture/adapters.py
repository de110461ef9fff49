"""Adapters from peft folders as the factors of a mixture: read, compared with the model, refused where they do not fit.

What a mixture takes is `s B A` beside linear layers, of any ranks and targets. What is no sum of such updates (DoRA,
embeddings and modules that were trained whole, a start that took a part out of the weights) is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.mixture.bases import Base, check_base, check_vocabulary
from adapt.mixture.stack import Factors
from merge.adapters import CONFIG, WEIGHTS, Adapter
from merge.errors import MergeError

_TOOK_OUT = ("pissa", "olora", "loftq", "corda")
_HEADS = ("lm_head", "embed_out", "output_layer")


@dataclass(frozen=True)
class Part:
    """One adapter of a mixture: its factors by module, its configuration, the folder that its files are copied from.

    `folder` is None for one that was made here, or that trained since. Once the adapter stands in a model, the factors
    are the layers' alone, and `factors` is empty.
    """

    factors: Mapping[str, Factors]
    config: Mapping[str, Any]
    folder: Path | None = None


def read_part(name: str, folder: str | Path, model: nn.Module, base: Base, tokenizer: Any = None) -> Part:
    """The adapter in a peft folder, for this model.

    Raises AdaptError for one that is of another kind, was trained over another base or vocabulary, has other shapes, or
    lacks tensors.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise AdaptError(f"adapter '{name}': '{folder}' holds no adapter (no {CONFIG})")
    try:
        adapter = Adapter(name, folder)
        _check_kind(adapter)
        check_base(name, folder, adapter.config, base)
        check_vocabulary(name, folder, model, tokenizer)
        linear = linear_layers(model)
        factors = {module: _factors(adapter, module, linear) for module in adapter.parts}
    except MergeError as error:
        raise AdaptError(f"adapter '{name}': {error}") from error
    _check_whole(adapter, factors, linear)
    return Part(factors, adapter.config, folder)


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(in, out) of every module that multiplies with one matrix, by its name; without the output embedding."""
    sizes = {}
    for path, module in model.named_modules():
        name = path.removesuffix(".base")  # of a layer that has adapters beside it already
        if name.rpartition(".")[2] in _HEADS:
            continue
        if type(module).__name__ == "Conv1D":  # GPT-2's: the weight is [in, out]
            sizes[name] = module.weight.shape[0], module.weight.shape[1]
        elif hasattr(module, "in_features") and hasattr(module, "out_features"):
            sizes[name] = module.in_features, module.out_features
    return sizes


def read_factors(name: str, folder: Path, model: nn.Module) -> dict[str, Factors]:
    """The factors of an adapter that was read before, once more."""
    adapter, linear = Adapter(name, folder), linear_layers(model)
    return {module: _factors(adapter, module, linear) for module in adapter.parts}


def _check_kind(adapter: Adapter) -> None:
    """Refuse what is no plain sum of low-rank updates."""
    where, start = f"adapter '{adapter.name}'", str(adapter.config.get("init_lora_weights", "")).lower()
    parts = {part for own in adapter.parts.values() for part in own}
    if adapter.config.get("use_dora") or "lora_magnitude_vector" in parts:
        raise AdaptError(f"{where} is DoRA, whose magnitudes are no sum of updates; train it without dora")
    if start.startswith(_TOOK_OUT):
        raise AdaptError(
            f"{where} began with init_lora_weights '{start}', which took a part out of the base's weights; "
            "convert it to a plain LoRA (peft: path_initial_model_for_weight_conversion) first"
        )
    for module, own in adapter.parts.items():
        if module.rpartition(".")[2] in _HEADS or set(own) & {"whole", "lora_embedding_A", "lora_embedding_B"}:
            raise AdaptError(
                f"{where} changes '{module}', which is no linear layer of a block; a mixture has one vocabulary for "
                "all adapters, so train it on the blocks' layers alone (no embeddings, no modules_to_save)"
            )


def _factors(adapter: Adapter, module: str, linear: Mapping[str, tuple[int, int]]) -> Factors:
    where, parts = f"adapter '{adapter.name}'", adapter.parts[module]
    if module not in linear:
        raise AdaptError(f"{where} changes '{module}', which this model does not have; it was trained on another base")
    if set(parts) != {"lora_A", "lora_B"}:
        raise AdaptError(f"{where} holds only {', '.join(sorted(parts))} of '{module}'; its file is not whole")
    a, b = adapter.tensor(module, "lora_A"), adapter.tensor(module, "lora_B")
    found = a.shape[1], b.shape[0]
    if found != linear[module] or a.shape[0] != b.shape[1]:
        raise AdaptError(
            f"{where} has factors of shape {list(a.shape)} and {list(b.shape)} for '{module}', which maps "
            f"{linear[module][0]} to {linear[module][1]}; it was trained on another base"
        )
    return Factors(a, b, adapter.scale(module, a.shape[0]))


def _check_whole(adapter: Adapter, factors: Mapping[str, Factors], linear: Mapping[str, tuple[int, int]]) -> None:
    """Every layer that the configuration names has its factors, as far as names tell."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    if not factors:
        raise AdaptError(f"adapter '{adapter.name}': '{adapter.folder / WEIGHTS}' holds no update of any layer")
    targets = adapter.config.get("target_modules")
    if not targets or targets == "all-linear":
        return
    keys = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    config = LoraConfig(**{key: adapter.config.get(key) for key in keys})
    for module in linear:
        if module not in factors and check_target_module_exists(config, module) is True:
            raise AdaptError(
                f"adapter '{adapter.name}' is to change '{module}', but its {WEIGHTS} has no tensors for it; "
                "the file is not whole"
            )


def targeted(model: nn.Module, targets: Literal["all-linear"] | Sequence[str]) -> dict[str, tuple[int, int]]:
    """The linear layers of the blocks whose names end so. Raises AdaptError where there are none."""
    linear = linear_layers(model)
    ends = () if targets == "all-linear" else tuple(targets)
    found = {name: size for name, size in linear.items() if not ends or name.endswith(ends)}
    for end in ends:
        if not any(name == end or name.endswith(f".{end}") for name in found):
            raise AdaptError(f"targets: no linear layer's name ends in '{end}'")
    return {name: size for name, size in found.items() if not ends or any(f".{name}".endswith(f".{e}") for e in ends)}


def fresh_part(modules: Mapping[str, tuple[int, int]], rank: int, alpha: float, base: Base) -> Part:
    """A new adapter that changes nothing yet: A as peft draws it, `uniform(-1/sqrt(in), 1/sqrt(in))`, and B zero."""
    factors = {}
    for module, (inner, outer) in modules.items():
        a = torch.empty(rank, inner)
        nn.init.kaiming_uniform_(a, a=5**0.5)
        factors[module] = Factors(a, torch.zeros(outer, rank), alpha / rank)
    return Part(factors, _config(sorted(modules), rank, alpha, base))


def _config(modules: list[str], rank: int, alpha: float, base: Base) -> dict[str, Any]:
    from peft import LoraConfig

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=modules,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.path,
        revision=base.revision,
        inference_mode=True,
    )
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def write_part(part: Part, factors: Mapping[str, Factors], folder: Path) -> None:
    """Write an adapter as peft's folder: its own files again where it did not change, else `factors` in float32."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if part.folder is not None:
        for name in (CONFIG, WEIGHTS):
            (folder / name).write_bytes((part.folder / name).read_bytes())
        return
    tensors = {}
    for module, own in factors.items():
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = own.a.detach().float().cpu().contiguous()
        tensors[f"{prefix}.lora_B.weight"] = own.b.detach().float().cpu().contiguous()
    text = json.dumps(dict(part.config), indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))
