"""The error that 4 bits make in a base, folded into an adapter: its best rank-k part becomes a part of the update.

Over the unquantised base the update then also moves each weight towards the one that was trained around,

    W + s B A + U V,   U V = argmin_{rank k} |Q^-1(Q(W)) - W - U V|_F

by a truncated singular value decomposition, as LoftQ (Li et al. 2023, arXiv 2310.08659) takes it the other way round
before a training. The result is an adapter of rank r + k and scale 1.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.export.nf4 import dequantised
from adapt.export.tensors import read_tensor
from merge.adapters import CONFIG, WEIGHTS, Adapter
from merge.checkpoint import Checkpoint

if TYPE_CHECKING:
    from adapt.export.source import Source

_PREFIX = "base_model.model."
_MORE, _ROUNDS = 16, 4
"""Directions and power iterations beyond the rank in the randomised decomposition (Halko et al. 2011)."""


def best_factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`U [n, k]`, `V [k, m]`, whose product is the best approximation of `matrix [n, m]` of rank k, in float32.

    Exact where the rank and a few directions more are all that the matrix has, otherwise randomised, from a fixed seed.
    """
    count = min(rank + _MORE, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(matrix.float(), q=count, niter=_ROUNDS)
    return left[:, :rank] * values[:rank], right[:, :rank].T


def correct(source: Source, names: Collection[str], rank: int, folder: Path) -> dict[str, float]:
    """Write the corrected adapter to `folder`, for the base's weights `names` that stood in 4 bits.

    Returns how large the error was, relative to the weights, and which share of it (of its norm) is left over.
    Raises AdaptError for layers that store `[in, out]`.
    """
    if source.adapter is None or source.base is None or source.precision is None:
        raise AdaptError(f"'{source.name}' has no adapter that could be corrected")
    adapter, base = Adapter("adapter", source.adapter), Checkpoint("base", source.base)
    if adapter.config.get("fan_in_fan_out"):
        raise AdaptError(f"correct: the layers of '{source.name}' store [in, out], which 4 bits are not corrected for")
    sums = {"weights": 0.0, "error": 0.0, "left": 0.0}
    tensors: dict[str, torch.Tensor] = {}
    for module in sorted({*(name.removesuffix(".weight") for name in names), *adapter.parts}):
        own = _own(adapter, module)
        if f"{module}.weight" in names:
            stored = read_tensor(base, f"{module}.weight")
            weight, device = stored.float(), source.precision.device
            error = dequantised(stored, source.precision.dtype, device) - weight
            u, v = (factor.cpu() for factor in best_factors(error.to(device), rank))
            for key, value in (("weights", weight), ("error", error), ("left", error - u @ v)):
                sums[key] += float(value.double().square().sum())
            if adapter.config.get("use_dora") and "lora_magnitude_vector" not in own:
                own["lora_magnitude_vector"] = (weight + u @ v).norm(dim=1)
            own |= {"lora_B": _joined(own.get("lora_B"), u, 1), "lora_A": _joined(own.get("lora_A"), v, 0)}
        tensors |= {_entry(module, part): value for part, value in own.items()}
    _write(source.adapter, tensors, folder)
    return {
        "rank": rank,
        "error": (sums["error"] / sums["weights"]) ** 0.5,
        "left": (sums["left"] / sums["error"]) ** 0.5,
    }


def _own(adapter: Adapter, module: str) -> dict[str, torch.Tensor]:
    """The parts of a module's trained update, with the scale in B; none for a module without one."""
    parts = {part: adapter.tensor(module, part) for part in adapter.parts.get(module, {})}
    for kind in ("lora", "lora_embedding"):
        if f"{kind}_A" in parts:
            rank = parts[f"{kind}_A"].shape[0]
            parts[f"{kind}_B"] = parts[f"{kind}_B"] * adapter.scale(module, rank)
    return parts


def _joined(old: torch.Tensor | None, new: torch.Tensor, dimension: int) -> torch.Tensor:
    return (new if old is None else torch.cat([old, new], dimension)).contiguous()


def _entry(module: str, part: str) -> str:
    whole = {"whole": f"{_PREFIX}{module}.weight", "lora_magnitude_vector": f"{_PREFIX}{module}.{part}"}
    plain = part.startswith("lora_embedding")
    return whole.get(part, f"{_PREFIX}{module}.{part}" + ("" if plain else ".weight"))


def _write(adapter: Path, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """A peft folder of scale 1, with the other files (rows, tokenizer) of the adapter that it comes from."""
    from safetensors.torch import save_file

    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    ranks = {
        name.removeprefix(_PREFIX).partition(".lora_")[0]: tensor.shape[0]
        for name, tensor in tensors.items()
        if ".lora_A" in name or ".lora_embedding_A" in name
    }
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    pattern = {module: rank for module, rank in sorted(ranks.items()) if rank != usual}
    config: dict[str, Any] = read_json(adapter / CONFIG)
    config |= {"r": usual, "lora_alpha": usual, "use_rslora": False, "init_lora_weights": True}
    config |= {"rank_pattern": pattern, "alpha_pattern": dict(pattern), "target_modules": sorted(ranks)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
