"""What an optimiser of a recipe is, AdamW in its forms, and which parameters decay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from adapt.errors import AdaptError
from adapt.settings import NonNegative, Positive, Settings, Share

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapt.training.rows import EmbeddingRows

Groups = list[dict[str, Any]]
_SMALLEST = 4096
"""Numbers in a parameter from which bitsandbytes keeps moments in 8 bits."""


class BaseOptimizer(Settings, ABC):
    """Base of all optimisers. `adapt.training.optimizers.OPTIMIZERS` is the table."""

    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices. Embeddings, norms and biases never decay."""
    embedding_rate: Positive | None = None
    """Peak learning rate of the embeddings. Empty: the schedule's peak."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""

    def build(self, model: nn.Module, rows: EmbeddingRows, peak: float) -> torch.optim.Optimizer:
        """The optimiser over all of `model` that trains: matrices, norms and biases, embeddings, slow old rows."""
        from adapt.training.rates import by_rate

        self.check(next(model.parameters()).device.type)
        groups = by_rate(parameter_groups(model, rows, peak, self.weight_decay, self.embedding_rate or peak))
        return self.make(groups, rows.all_parameters, peak)

    @abstractmethod
    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """The optimiser over groups of parameters, which have their own `lr` and `weight_decay`."""

    def check(self, device: str) -> None:
        """Raises AdaptError where the optimiser cannot run on a device (`cpu`, `cuda`)."""

    @property
    def moments(self) -> str:
        """Why moments are not one number in 32 bits for each weight, to follow on "its moments"; empty if they are."""
        return "are in 8 bits" if "8bit" in self.kind else ""

    @abstractmethod
    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """Bytes that the optimiser keeps for a parameter of a shape."""

    def leaves_device(self) -> bool:
        """Whether these bytes lie in main memory, or go there when a GPU is full."""
        return False


class Optimizer(BaseOptimizer):
    """AdamW, with its moments in 32 or in 8 bits, on the device, paged or in main memory.

    Loshchilov and Hutter 2019, arXiv 1711.05101; in 8 bits Dettmers et al. 2022, arXiv 2110.02861.
    """

    kind: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "offloaded_adamw"] = "adamw"
    """AdamW of torch; of bitsandbytes with moments in 8 bits, on a GPU or a CPU; `paged`, of bitsandbytes, moves them
    out of a full GPU; `offloaded` keeps them in main memory and makes the update there."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    epsilon: Positive = 1e-8
    """Added to the root of the second moment."""

    def check(self, device: str) -> None:
        """Pages need CUDA's unified memory."""
        if self.kind.startswith("paged") and device != "cuda":
            plain = "adamw_8bit" if "8bit" in self.kind else "adamw"
            raise AdaptError(f"optimizer '{self.kind}' needs a CUDA GPU; use '{plain}' on a CPU")

    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """Two moments."""
        return 2 * moment_bytes(shape, "8bit" in self.kind and not embedding)

    def leaves_device(self) -> bool:
        """Paged and offloaded ones do."""
        return self.kind.startswith(("paged", "offloaded"))

    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """Embeddings keep moments in 32 bits."""
        import torch

        arguments = {"lr": peak, "betas": (self.beta1, self.beta2), "eps": self.epsilon}
        if self.kind == "adamw":
            return torch.optim.AdamW(groups, fused=True, **arguments)
        if self.kind == "offloaded_adamw":
            from adapt.training.steps.offloaded import OffloadedAdamW

            return OffloadedAdamW(groups, **arguments)
        import bitsandbytes

        keep_32_bits(embeddings)
        kinds = {
            "adamw_8bit": "AdamW8bit",
            "paged_adamw_8bit": "PagedAdamW8bit",
            "paged_adamw_32bit": "PagedAdamW32bit",
        }
        return getattr(bitsandbytes.optim, kinds[self.kind])(groups, **arguments)


def moment_bytes(shape: tuple[int, ...], eight_bits: bool = False) -> int:
    """Bytes of one moment of a parameter: 4 for each number, or 1 with a scale of 4 for each 256 numbers.

    bitsandbytes keeps parameters below 4096 numbers in 32 bits.
    """
    count = math.prod(shape)
    if not eight_bits or count < _SMALLEST:
        return 4 * count
    return count + 4 * math.ceil(count / 256) + 4 * 256


def keep_32_bits(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Tell bitsandbytes that the moments of these are never in 8 bits: rows of rare tokens need the range."""
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for parameter in parameters:
        manager.override_config(parameter, "optim_bits", 32)


def parameter_groups(
    model: nn.Module, rows: EmbeddingRows, rate: float, decay: float, embedding_rate: float
) -> list[dict[str, Any]]:
    """The parameters that train, as the optimiser's groups: matrices decay, vectors and embeddings do not."""
    fast, slow = ({id(parameter) for parameter in parameters} for parameters in (rows.parameters, rows.tables))
    from adapt.training.rules import learning

    training = list(learning(model).values())
    rest = [parameter for parameter in training if id(parameter) not in fast | slow]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": decay, "lr": rate},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0, "lr": rate},
        {"params": [p for p in training if id(p) in fast], "weight_decay": 0.0, "lr": embedding_rate},
        {"params": [p for p in training if id(p) in slow], "weight_decay": 0.0, "lr": embedding_rate * rows.slow_rate},
    ]
    return [group for group in groups if group["params"]]
