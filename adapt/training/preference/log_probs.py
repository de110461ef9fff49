"""Log-probabilities of given tokens, without ever holding all logits: TRL's where it has them, ours over two tables.

TRL's fused output embedding multiplies by `lm_head.weight` itself and would not see rows that stand apart from it
(`adapt.training.two_tables`), nor does ORPO's trainer have one. Ours asks the output embedding, whatever it is, for a
few positions at a time, and computes their logits again in the backward pass.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from adapt.errors import AdaptError
from adapt.training.loss import CHUNK, LogitForm, balance


@dataclass
class TokenNumbers(ModelOutput):
    """What TRL's trainers read of a fused output embedding, `[b, t - 1]` each, zero where there is no label."""

    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    mean_logits: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None


def sequence_log_probs(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`sum_t log p(y_t | before)` over the tokens of the answer in each row of a batch of pairs, `[2 pairs]`."""
    outputs = model(**inputs_of_pairs(batch), fused_lm_head=True, use_cache=False)
    return outputs.log_probs.float().sum(1)


def inputs_of_pairs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model takes of a batch of pairs: ids, attention mask, and labels on the answers."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def add_token_numbers(model: Any) -> None:
    """Let `model(..., labels=labels, fused_lm_head=True)` return `TokenNumbers`, in TRL's manner.

    `model` is a plain transformers model. A forward that TRL gave it is replaced for calls with `fused_lm_head`.
    """
    original, config = model.forward, model.config.get_text_config()
    form = LogitForm.of(config)

    @functools.wraps(type(model).forward)
    def forward(self: Any, *arguments: Any, fused_lm_head: bool = False, **others: Any) -> Any:
        if not fused_lm_head:
            return original(*arguments, **others)
        labels = others.pop("labels")[:, 1:]
        outputs = self.base_model(*arguments, **{**others, "use_cache": False})
        hidden, carries = outputs.last_hidden_state[:, :-1], labels != -100
        numbers = _of_positions(hidden[carries], labels[carries], self.get_output_embeddings(), form)
        spread = [number.new_zeros(labels.shape).masked_scatter(carries, number) for number in numbers]
        result = TokenNumbers(*spread)
        if others.get("output_router_logits"):
            result.aux_loss = balance(outputs.router_logits, config)
        return result

    model.forward = types.MethodType(forward, model)


def _of_positions(hidden: torch.Tensor, targets: torch.Tensor, head: Any, form: LogitForm) -> list[torch.Tensor]:
    """Log-probability, entropy, mean logit, and whether the target is the first choice, `[n]` each."""
    step = max(1, CHUNK // head.weight.shape[0])
    if len(hidden) <= step:
        return list(_numbers(hidden, targets, head, form))
    parts = [
        checkpoint(_numbers, hidden[at : at + step], targets[at : at + step], head, form, use_reentrant=False)
        for at in range(0, len(hidden), step)
    ]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _numbers(hidden: torch.Tensor, targets: torch.Tensor, head: Any, form: LogitForm) -> tuple[torch.Tensor, ...]:
    logits = form.logits(head(hidden).float())
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return chosen, entropy, logits.mean(-1), logits.argmax(-1) == targets


def check_token_numbers(model: Any) -> None:
    """Ours are those of the model's own logits. Raises AdaptError for a family whose logits we misread."""
    ids = torch.arange(8, device=model.device).unsqueeze(0) * (model.config.get_text_config().vocab_size // 8)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        expected = float(logits.gather(-1, ids[:, 1:, None]).sum())
        found = float(model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.sum())
    model.train(was_training)
    if not abs(found - expected) <= 0.02 * max(1.0, abs(expected)):
        raise AdaptError(
            f"the logits of '{model.config.model_type}' are not h W^T in any form known here (log-probability "
            f"{found:.4g} instead of {expected:.4g}), so it cannot learn from pairs in this way; use objective: sft"
        )
