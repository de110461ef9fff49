"""How long a train stage takes: from a throughput that was measured, or from the operations of a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapt.methods.base import plain_model
from adapt.planning.gpus import UTILISATION, Gpu

if TYPE_CHECKING:
    from adapt.planning.tokens import Budget
    from adapt.planning.train import TrainPlan


@dataclass(frozen=True)
class Duration:
    """`basis` says where the throughput is from."""

    seconds: float
    tokens_per_second: float
    basis: str


def flops_per_token(made: TrainPlan) -> float:
    """Operations of a forward and backward pass for a token.

    `2 N` forward, `2 N` for the gradients of the inputs and `2 N'` for those of the weights, N the numbers in matrices
    (with the output embedding) and N' those that train; attention `4 L t d` forward and twice that backward, halved
    because it is causal. Checkpointing makes the forward pass twice.
    """
    model, stage = made.sketch.model, made.stage
    plain = plain_model(model)
    config = plain.config.get_text_config()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    lookup = 0 if tied else plain.get_input_embeddings().weight.numel()
    count = sum(p.numel() for p in matrices) - lookup
    training = sum(p.numel() for p in matrices if p.requires_grad)
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    attention = 2 * config.num_hidden_layers * stage.sequence_length * width
    forward = 2 * count + attention
    return forward * (2 if stage.gradient_checkpointing else 1) + 2 * count + 2 * training + 2 * attention


def duration_of(
    made: TrainPlan, budget: Budget, gpu: Gpu | None, throughput: float | None, before: float | None = None
) -> Duration | None:
    """The time of a stage: by a given `throughput`, by that of a run `before`, by the GPU's speed; None without all."""
    if budget.tokens is None:
        return None
    if throughput is not None:
        return Duration(budget.tokens / throughput, throughput, "throughput as given")
    if before is not None:
        return Duration(budget.tokens / before, before, "measured in this recipe's last run of the stage")
    if gpu is None or gpu.peak is None:
        return None
    speed = gpu.peak * UTILISATION / flops_per_token(made)
    basis = f"{UTILISATION:.0%} of {gpu.peak / 1e12:,.0f} TFLOP/s, stated"
    return Duration(budget.tokens / speed, speed, basis)
