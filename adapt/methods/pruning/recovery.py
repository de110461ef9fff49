"""Updates of a pruned model at full size, and a pruned model on the disk.

    B_full[rows] = B, A_full[:, columns] = A, zero elsewhere

so the update of the whole weight is that of the pruned one at the coordinates that were kept, and exactly zero at all
others. Zhang et al. 2025, "Train Small, Infer Large", arXiv 2502.13533.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapt.methods.low_rank.factors import Factors
from adapt.methods.pruning.prune import cut, kept_in
from adapt.methods.pruning.structure import Kept

PRUNED_FILE = "adapt_pruned.safetensors"


def recovered(part: Factors, module: nn.Module) -> Factors:
    """Factors of a linear layer's update at full size, `[out, r]` and `[r, in]`; the same where it was not cut."""
    (b, a), kept, shape = part, kept_in(module), getattr(module, "full_shape", ())
    if kept.rows is not None:
        b = b.new_zeros(shape[0], b.shape[1]).index_copy(0, kept.rows.cpu(), b)
    if kept.columns is not None:
        a = a.new_zeros(a.shape[0], shape[1]).index_copy(1, kept.columns.cpu(), a)
    return b, a


def save_pruned(model: Any, folder: Path) -> None:
    """Write what trained of a pruned model, and which coordinates each linear layer kept."""
    from safetensors.torch import save_file

    tensors = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        for key in ("kept_rows", "kept_columns"):
            if getattr(module, key, None) is not None:
                tensors[f"{name}.{key}"] = getattr(module, key).cpu()
    save_file(tensors, folder / PRUNED_FILE)


def load_pruned(model: Any, file: Path) -> None:
    """Make the whole model in memory the pruned one of a file, in place."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    modules = {name.rpartition(".")[0] for name in tensors if ".kept_" in name}
    cut(model, {name: Kept(tensors.get(f"{name}.kept_rows"), tensors.get(f"{name}.kept_columns")) for name in modules})
    with torch.no_grad():
        for name, tensor in tensors.items():
            if ".kept_" not in name:
                model.get_parameter(name).copy_(tensor)
