"""A rank for every layer, found in training: gates on the ranks, pulled towards zero.

    y = W x + s B diag(g) A x,    g <- sign(g) max(|g| - k, 0)  after each update

g is 1 at first; the pull k is the proximal step of an L1 penalty. A rank whose gate reaches zero gets no gradient any
more in A and B, but its gate still does, so that it can return; ranks at zero are left out of what is written. From Lu
et al. 2024, "Adaptive Rank, Reduced Forgetting" (CoDyRA), arXiv 2412.01004.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from adapt.methods.low_rank.layers import ADAPTER, lora_layers
from adapt.training.companion import Companion
from adapt.training.rates import set_rate

if TYPE_CHECKING:
    from adapt.methods.low_rank.settings import RankSelect


def shrink(gate: torch.Tensor, pull: float) -> torch.Tensor:
    """`sign(g) max(|g| - k, 0)`."""
    return gate.sign() * (gate.abs() - pull).clamp(min=0)


def add_gates(model: Any, settings: RankSelect) -> None:
    """Multiply the output of every A with a gate for each rank, all 1."""
    for layer in lora_layers(model).values():
        a = layer.lora_A[ADAPTER]
        layer.rank_gate = nn.Parameter(torch.ones(a.out_features, device=a.weight.device))
        set_rate(layer.rank_gate, settings.gate_rate)
        a.register_forward_hook(partial(_through_gate, gate=layer.rank_gate))


def _through_gate(a: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return output * gate.to(output)


class Selecting(Companion):
    """Pulls the gates, and says how many ranks are left. The gates themselves are parameters, and so in checkpoints."""

    name: ClassVar[str] = "rank_select"

    def __init__(self, model: Any, settings: RankSelect) -> None:
        self.settings = settings
        self.gates = {name: layer.rank_gate for name, layer in lora_layers(model).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One pull, as strong as the schedule's rate is high."""
        plan = self.trainer.plan
        if state.global_step <= self.settings.begin * plan.steps:
            return
        share = plan.schedule.rate(plan.offset + state.global_step - 1, plan.total)
        with torch.no_grad():
            for gate in self.gates.values():
                gate.copy_(shrink(gate, self.settings.shrink * share))

    def numbers(self) -> dict[str, Any]:
        """The rank of every layer, and their sum as a share of what it was."""
        ranks = {name: int(gate.count_nonzero()) for name, gate in self.gates.items()}
        return {"share": sum(ranks.values()) / sum(map(len, self.gates.values())), "ranks": ranks}
