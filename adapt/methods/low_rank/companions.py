"""What a low-rank method's keys attach to a model and to its run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adapt.methods.low_rank.average import Averaging
from adapt.methods.low_rank.layers import ADAPTER, lora_layers
from adapt.methods.low_rank.rank_select import Selecting, add_gates
from adapt.methods.low_rank.refactor import Restarts
from adapt.methods.low_rank.start import keep_a
from adapt.training.rates import set_rate

if TYPE_CHECKING:
    from adapt.methods.lora import LowRank
    from adapt.training.companion import Companion


def prepare_factors(model: Any, method: LowRank) -> None:
    """What of the factors trains, and at which rate."""
    if method.lora_fa:
        keep_a(model)
    if method.lora_plus is not None:
        for layer in lora_layers(model).values():
            set_rate(layer.lora_B[ADAPTER].weight, method.lora_plus)
    if method.rank_select is not None:
        add_gates(model, method.rank_select)


def companions_of(method: LowRank, model: Any, seed: int) -> tuple[Companion, ...]:
    """The companions that the keys ask for."""

    def asked() -> Iterator[Companion]:
        if method.refactor is not None:
            yield Restarts(model, method.refactor, seed)
        if method.rank_select is not None:
            yield Selecting(model, method.rank_select)
        if method.average is not None:
            yield Averaging(model, method.average)

    return tuple(asked())
