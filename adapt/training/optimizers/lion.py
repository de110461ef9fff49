"""Lion: the sign of an interpolated momentum, one moment only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from adapt.errors import AdaptError
from adapt.settings import Share
from adapt.training.optimizer import BaseOptimizer, Groups, keep_32_bits, moment_bytes

if TYPE_CHECKING:
    import torch


class Lion(BaseOptimizer):
    """`w <- w - lr (sign(b1 m + (1 - b1) g) + decay w)`, `m <- b2 m + (1 - b2) g`, of bitsandbytes.

    Chen et al. 2023, arXiv 2302.06675. Every weight moves by the learning rate: take a third to a tenth of AdamW's, and
    so much more decay.
    """

    kind: Literal["lion", "lion_8bit", "paged_lion_8bit"]
    """Lion, with its moment in 32 or 8 bits; `paged` moves it out of a full GPU."""
    beta1: Share = 0.9
    """Weight of the momentum in the update."""
    beta2: Share = 0.99
    """Decay of the momentum."""

    def check(self, device: str) -> None:
        """Pages need CUDA's unified memory."""
        if self.kind.startswith("paged") and device != "cuda":
            raise AdaptError(f"optimizer '{self.kind}' needs a CUDA GPU; use 'lion_8bit' on a CPU")

    def state_bytes(self, shape: tuple[int, ...], embedding: bool) -> int:
        """One moment."""
        return moment_bytes(shape, "8bit" in self.kind and not embedding)

    def leaves_device(self) -> bool:
        """The paged one does."""
        return self.kind.startswith("paged")

    def make(self, groups: Groups, embeddings: Iterable[torch.nn.Parameter], peak: float) -> torch.optim.Optimizer:
        """Embeddings keep their moment in 32 bits."""
        import bitsandbytes

        keep_32_bits(embeddings)
        kinds = {"lion": "Lion32bit", "lion_8bit": "Lion8bit", "paged_lion_8bit": "PagedLion8bit"}
        return getattr(bitsandbytes.optim, kinds[self.kind])(groups, lr=peak, betas=(self.beta1, self.beta2))
