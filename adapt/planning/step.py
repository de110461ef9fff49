"""One forward and backward pass of a training stage, as `adapt.planning.trace` makes it without values."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from adapt.methods.base import plain_model
from adapt.training.loss import CHUNK, LogitForm, two_table_loss, whole_loss

_TILE = 4096, 32768
"""Tokens and columns of the tiles in which TRL computes logits."""


@dataclass(frozen=True)
class Step:
    """What decides over the memory of a pass: rows and length of a batch, formats, and how the loss is computed.

    `loss_form`: `whole` (all logits at once), `tables` (our chunks over two tables), `fused` (TRL's tiles). `packed`
    says whether rows hold several documents, so that attention needs a mask.
    """

    rows: int
    length: int
    height: int
    bf16: bool
    loss_form: str
    device: str = "cpu"
    checkpointing: bool = False
    offload: bool = False
    packed: bool = True

    def autocast(self) -> AbstractContextManager[Any]:
        """As the run computes."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def batch(self) -> dict[str, torch.Tensor]:
        """A batch of the run's shape."""
        shape = self.rows, self.length
        batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "labels", "position_ids")}
        if self.packed:
            batch["attention_mask"] = torch.ones(self.rows, 1, self.length, self.length, dtype=torch.bool)
        return batch

    def hidden(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Through the blocks."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return plain_model(model).base_model(**inputs, use_cache=False).last_hidden_state

    def loss(self, model: Any, hidden: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """From the blocks' output to the loss."""
        plain, labels = plain_model(model), batch["labels"]
        head, form = plain.get_output_embeddings(), LogitForm.of(plain.config)
        if self.loss_form == "whole":
            return whole_loss(form.logits(head(hidden)), labels)
        flat, targets = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        if self.loss_form == "tables":
            return two_table_loss(flat, head, targets, form)
        if self.device == "cuda":
            return _Tiles.apply(flat, head.weight, self.bf16)
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        kept = ("log_probs", "entropy", "is_top1")
        found = ChunkedLogProbFunction.apply(
            flat, head.weight, head.bias, targets, 1.0, _TILE[1], form.cap, form.scale, kept
        )
        return -found[0].sum()


class _Tiles(torch.autograd.Function):
    """What TRL's fused output embedding allocates where its kernels work in place: a tile, and sums in float32."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bf16: bool) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.tile = (min(len(hidden), _TILE[0]), _TILE[1]), torch.bfloat16 if bf16 else hidden.dtype
        torch.empty(ctx.tile[0], dtype=ctx.tile[1])
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        hidden, weight = ctx.saved_tensors
        tile = torch.empty(ctx.tile[0], dtype=ctx.tile[1])
        sums = [
            torch.zeros_like(tensor, dtype=torch.float32) if needed else None
            for tensor, needed in zip((hidden, weight), ctx.needs_input_grad, strict=False)
        ]
        del tile
        return *(own if own is None else own.to(t.dtype) for own, t in zip(sums, (hidden, weight), strict=True)), None


def loss_form(rows: int, length: int, height: int, tables: bool, pairs: bool) -> str:
    """How a trainer computes the loss of a batch over `height` tokens."""
    if not pairs and rows * length * height <= CHUNK:
        return "whole"
    return "tables" if tables else "fused"
