"""The loss of next tokens, summed: at once where the logits are small, in chunks of tokens where they are large.

`sum_n -log softmax(z_n)[t_n]` over the positions n that carry loss, `z = h W^T` in the form that the model's family
gives its logits (scaled, capped). Large ones over two tables are never whole: a chunk's gradient, `softmax(z) - 1[t]`,
is turned into those of h and of the rows at once, while the chunk is there, so nothing is computed twice; the backward
pass only multiplies by the gradient of the sum, one number. The idea of gradients in the forward pass is that of Hsu et
al. 2024, "Liger Kernel", arXiv 2410.10989.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt.errors import AdaptError
from adapt.training.two_tables import TwoTableHead

CHUNK = 2**25
"""Logits that may be in memory at once; in float32 these are 134 MB."""


@dataclass(frozen=True)
class LogitForm:
    """`z = cap tanh(scale y / cap)` of the products `y = h W^T`; `z = scale y` without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitForm:
        """The form of a family, by the names that their configurations give it (Gemma, Cohere, Granite, Falcon-H1)."""
        names = ("logit_scale", "output_multiplier", "lm_head_multiplier")
        scale = next((value for name in names if (value := getattr(config, name, None)) is not None), None)
        divisor = getattr(config, "logits_scaling", None)
        if scale is None and divisor is not None:
            scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
        return cls(1.0 if scale is None else scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, products: torch.Tensor) -> torch.Tensor:
        """`z` from `y`, in place."""
        products = products if self.scale == 1 else products.mul_(self.scale)
        return products if self.cap is None else products.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | float:
        """`dz / dy` from `z`: `scale (1 - (z / cap)^2)`."""
        return self.scale if self.cap is None else (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


def shifted(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors `[n, width]` and next tokens `[n]` of the positions that carry loss, of `[b, t, width]` and `[b, t]`."""
    targets = labels[:, 1:].to(hidden.device)
    carries = targets != -100
    return hidden[:, :-1][carries], targets[carries]


def whole_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The summed loss from a model's own logits `[b, t, V]`."""
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=-100).to(logits.device)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


def _product_format(hidden: torch.Tensor) -> torch.dtype:
    """The format of matrix products: autocast's where it is on, else that of the input."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A matrix product with its sum in float32, also from bf16."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()


class _TwoTableLoss(torch.autograd.Function):
    """Summed loss of `hidden [n, d]` and its gradients for hidden, rows and, where they train, weight and bias."""

    @staticmethod
    def forward(ctx, hidden, rows, weight, bias, targets, where, form, chunk):
        dtype = _product_format(hidden)
        inputs = (hidden, rows, weight, bias)
        formats = (hidden.dtype, torch.float32, torch.float32, torch.float32)
        sums = [
            torch.zeros_like(tensor, dtype=kind) if needed else None
            for tensor, kind, needed in zip(inputs, formats, ctx.needs_input_grad, strict=False)
        ]
        total = hidden.new_zeros((), dtype=torch.float32)
        tables = weight.to(dtype), rows.to(dtype)
        step = max(1, chunk // weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), step):
                part = hidden[start : start + step].to(dtype)
                loss, gradient = _chunk(part, tables, bias, targets[start : start + step], where, form)
                total += loss
                _add(sums, slice(start, start + step), part, gradient, tables, where)
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        gradients = [None if tensor is None else tensor * upstream.to(tensor.dtype) for tensor in ctx.saved_tensors]
        return (*gradients, None, None, None, None)


def _chunk(
    hidden: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    where: slice | torch.Tensor,
    form: LogitForm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a few positions and the gradient of their products `y`, `[n, V]`, in the format of `hidden`."""
    weight, rows = tables
    products = hidden @ weight.T
    products[:, where] = hidden @ rows.T
    products = products.float()
    if bias is not None:
        products += bias
    logits = form.logits(products)
    places = targets.unsqueeze(1)
    total = logits.logsumexp(1, keepdim=True)
    loss = (total - logits.gather(1, places)).sum()
    slope = form.slope(logits)
    gradient = logits.sub_(total).exp_()
    gradient.scatter_add_(1, places, gradient.new_full(places.shape, -1.0))
    if not (isinstance(slope, float) and slope == 1):
        gradient *= slope
    return loss, gradient.to(hidden.dtype)


def _add(
    sums: list[torch.Tensor | None],
    positions: slice,
    hidden: torch.Tensor,
    gradient: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor],
    where: slice | torch.Tensor,
) -> None:
    """Add a chunk's part to the gradients of hidden, rows, weight and bias. Uses up `gradient`."""
    for_hidden, for_rows, for_weight, for_bias = sums
    weight, rows = tables
    if for_bias is not None:
        for_bias += gradient.sum(0, dtype=torch.float32)
    new = gradient[:, where].clone()
    gradient[:, where] = 0
    if for_hidden is not None:
        for_hidden[positions] = torch.addmm(new @ rows, gradient, weight).to(for_hidden.dtype)
    if for_rows is not None:
        for_rows += _product(new.T, hidden)
    if for_weight is not None:
        for_weight += _product(gradient.T, hidden)


def two_table_loss(
    hidden: torch.Tensor, head: TwoTableHead, targets: torch.Tensor, form: LogitForm, chunk: int | None = None
) -> torch.Tensor:
    """The summed loss of `hidden [n, d]` and next tokens `[n]`, with `chunk` (CHUNK) logits in memory at a time."""
    chunk = CHUNK if chunk is None else chunk
    return _TwoTableLoss.apply(hidden, head.rows, head.weight, head.bias, targets, head.columns, form, chunk)


def add_chunked_loss(model: Any) -> None:
    """Let `model(..., labels=labels, chunked_loss=True)` return `{"loss": sum}` without ever holding all logits.

    As TRL does for its own loss, this is a forward of the model itself and not a function beside it, so that wrappers
    (DistributedDataParallel, autocast) see it. `model` is a plain transformers model with a `TwoTableHead`. With router
    logits asked for, `aux_loss` holds the balance of a mixture of experts.
    """
    original, config = model.forward, model.config.get_text_config()
    form = LogitForm.of(config)

    @functools.wraps(type(model).forward)
    def forward(self: Any, *arguments: Any, chunked_loss: bool = False, **others: Any) -> Any:
        if not chunked_loss:
            return original(*arguments, **others)
        labels = others.pop("labels")
        outputs = self.base_model(*arguments, **others)
        hidden, targets = shifted(outputs.last_hidden_state, labels)
        result = {"loss": two_table_loss(hidden, self.get_output_embeddings(), targets, form)}
        if others.get("output_router_logits"):
            result["aux_loss"] = balance(outputs.router_logits, config)
        return result

    model.forward = types.MethodType(forward, model)


def balance(router_logits: Any, config: Any) -> torch.Tensor:
    """The load-balancing loss of a mixture of experts, a mean over a batch."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    return load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, None)


def check_chunked_loss(model: Any) -> None:
    """The chunked loss is that of the model's own logits. Raises AdaptError for a family whose logits we misread."""
    ids = torch.arange(8, device=model.device).unsqueeze(0) * (model.config.get_text_config().vocab_size // 8)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        expected = float(whole_loss(model(input_ids=ids, use_cache=False).logits, ids))
        found = float(model(input_ids=ids, labels=ids, chunked_loss=True, use_cache=False)["loss"])
    model.train(was_training)
    if not abs(found - expected) <= 0.02 * max(1.0, abs(expected)):
        raise AdaptError(
            f"the logits of '{model.config.model_type}' are not h W^T in any form known here (loss {found:.4g} instead "
            f"of {expected:.4g}), so rows cannot train by themselves; set train_embeddings to 'frozen' or 'whole'"
        )


def is_small(labels: torch.Tensor, height: int) -> bool:
    """Whether the logits of a batch `[b, t]` over `height` tokens may be in memory all at once."""
    return labels.numel() * height <= CHUNK


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the model reads of a batch, without labels and cache."""
    return {name: value for name, value in batch.items() if name != "labels"} | {"use_cache": False}
