"""A merge file run by both engines, on tiny relatives with four layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from merge.engine import write
from merge.yaml_files import prepare_yaml
from tests.conftest import CHAT_TEMPLATE, make_model
from tests.merge.family import nudge, plain_tokenizer, save

SIZE = 384


def relatives(root: Path, dtype: torch.dtype, tied: bool = False, layers: int = 4) -> dict[str, Path]:
    """`base` and `a`, `b`, `c` that moved from it, partly the same way; `a` has a chat template."""
    found = {}
    for seed, name in enumerate(("base", "a", "b", "c")):
        model = make_model(SIZE, tied, num_hidden_layers=layers)
        moved = nudge(nudge(model, 9), seed) if seed else model
        tokenizer = plain_tokenizer(CHAT_TEMPLATE if name == "a" else None)
        found[name] = save(root / name, moved.to(dtype), tokenizer)
    return found


def filled(content: Any, folders: dict[str, Path]) -> str:
    """The text of a file; `@name` stands for a folder."""
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    for name in sorted(folders, key=len, reverse=True):
        text = text.replace(f"@{name}", str(folders[name]))
    return text


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@dataclass
class Merged:
    """The weights, what was decided, and the folder."""

    weights: dict[str, torch.Tensor]
    record: dict[str, Any]
    folder: Path


def ours(content: Any, folders: dict[str, Path], root: Path) -> Merged:
    file = root / "merge.yaml"
    file.write_text(filled(content, folders), encoding="utf-8")
    record = write(prepare_yaml(file), root / "ours")
    return Merged(weights(root / "ours"), record, root / "ours")


def mergekits(content: Any, folders: dict[str, Path], root: Path) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    logging.disable(logging.WARNING)
    settings = MergeConfiguration.model_validate(yaml.safe_load(filled(content, folders)))
    options = MergeOptions(write_model_card=False, quiet=True, random_seed=0, lora_merge_cache=str(root / "adapters"))
    run_merge(settings, str(root / "theirs"), options)
    return weights(root / "theirs")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    """Equal names, shapes and types; bfloat16 to one unit in the last place, float32 to a share of the largest."""
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        left, right = ours[name].float(), tensor.float()
        limit = torch.full_like(right, tolerance * float(right.abs().max()) + 1e-12)
        if tensor.dtype == torch.bfloat16:
            limit = torch.maximum(limit, 2**-7 * torch.maximum(left.abs(), right.abs()))
        assert bool(((left - right).abs() <= limit).all()), f"{name} is off by {(left - right).abs().max():.3g}"
