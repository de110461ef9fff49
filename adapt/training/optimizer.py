"""Optimisers by name, and which parameters decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.settings import NonNegative, Positive, Settings, Share

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapt.training.rows import EmbeddingRows


class Optimizer(Settings):
    """AdamW, with its moments in 32 or in 8 bits. Embeddings, norms and biases never decay."""

    kind: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """AdamW of torch, or of bitsandbytes with moments in 8 bits; `paged` moves them out of a full GPU."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""
    embedding_rate: Positive | None = None
    """Peak learning rate of the embeddings. Empty: the schedule's peak."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""

    def build(self, model: nn.Module, rows: EmbeddingRows, peak: float) -> torch.optim.Optimizer:
        """The optimiser over all of `model` that trains: matrices, norms and biases, embeddings, slow old rows."""
        import torch

        groups = parameter_groups(model, rows, peak, self.weight_decay, self.embedding_rate or peak)
        arguments = {"lr": peak, "betas": (self.beta1, self.beta2), "eps": self.epsilon}
        if self.kind == "adamw":
            return torch.optim.AdamW(groups, fused=True, **arguments)
        return self._eight_bit(groups, rows.all_parameters, arguments)

    def _eight_bit(self, groups: list[dict[str, Any]], embeddings: Iterable[Any], arguments: dict[str, Any]) -> Any:
        import bitsandbytes
        import torch

        if self.kind == "paged_adamw_8bit" and not torch.cuda.is_available():
            raise AdaptError("optimizer 'paged_adamw_8bit' needs a CUDA GPU; use 'adamw_8bit' on a CPU")
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        for parameter in embeddings:
            manager.override_config(parameter, "optim_bits", 32)
        kind = bitsandbytes.optim.AdamW8bit if self.kind == "adamw_8bit" else bitsandbytes.optim.PagedAdamW8bit
        return kind(groups, **arguments)


def parameter_groups(
    model: nn.Module, rows: EmbeddingRows, rate: float, decay: float, embedding_rate: float
) -> list[dict[str, Any]]:
    """The parameters that train, as the optimiser's groups: matrices decay, vectors and embeddings do not."""
    fast, slow = ({id(parameter) for parameter in parameters} for parameters in (rows.parameters, rows.tables))
    training = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = [parameter for parameter in training if id(parameter) not in fast | slow]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": decay, "lr": rate},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0, "lr": rate},
        {"params": [p for p in training if id(p) in fast], "weight_decay": 0.0, "lr": embedding_rate},
        {"params": [p for p in training if id(p) in slow], "weight_decay": 0.0, "lr": embedding_rate * rows.slow_rate},
    ]
    return [group for group in groups if group["params"]]
