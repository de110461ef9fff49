"""The plan of a train stage while it runs: the estimate beside what is measured, and advice where memory ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from adapt.errors import AdaptError
from adapt.planning.advice import advice
from adapt.planning.gpus import RESERVED
from adapt.planning.train import TrainPlan, plan_train

if TYPE_CHECKING:
    from adapt.stages.base import StageContext
    from adapt.stages.train import Train
    from adapt.training.meter import Meter
    from adapt.training.run import Run


def beside(stage: Train, context: StageContext, run: Run, meter: Meter) -> dict[str, Any]:
    """`estimate`, its `parts`, what was `measured`, and `error`, the estimate's relative one; for the manifest.

    Where a family's step cannot be made without values, `reason` says so instead. The run itself is over by then, so
    nothing that goes wrong here may end it.
    """
    try:
        memory = _plan(stage, context, run).memory
    except Exception as error:  # an estimate is no reason to lose a run that is done
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"estimate": None, "reason": reason} | _measured(meter)
    parts = {name: size for name, size in memory.parts.items() if size}
    error = {"error": memory.peak / meter.peak - 1} if meter.peak else {}
    return {"estimate": memory.peak, "parts": parts} | _measured(meter) | error


def _measured(meter: Meter) -> dict[str, int | None]:
    return {"measured": meter.peak} | ({"resident": meter.resident} if meter.resident is not None else {})


def _plan(stage: Train, context: StageContext, run: Run) -> TrainPlan:
    from adapt.planning.configs import config_of
    from adapt.planning.sketch import Vocabulary

    location, precision = context.models[stage.model], run.plan.precision
    config = config_of(location)
    return plan_train(stage, config, Vocabulary(config.vocab_size), location, precision.device.type, precision.bf16)


@contextmanager
def out_of_memory(stage: Train, context: StageContext) -> Iterator[None]:
    """Turn an end of memory into one AdaptError with what would make the stage fit. Raises AdaptError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise AdaptError(f"out of memory: {_reason(error)}; {_advice(stage, context)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """torch's own class on a GPU; on a CPU its allocator raises a RuntimeError with these words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["the system gave no more"])[0][:200]


def _advice(stage: Train, context: StageContext) -> str:
    """What would fit, by the plan; generally worded where the plan cannot be made."""
    from adapt.planning.configs import config_of
    from adapt.planning.sketch import Vocabulary
    from adapt.training.precision import choose

    general = "make batch_size (with more gradient_accumulation), sequence_length or the model smaller"
    try:
        location = context.models[stage.model]
        config = config_of(location)
        precision = choose(stage.precision, config.hidden_size)
        words, device = Vocabulary(config.vocab_size), precision.device.type
        plan = plan_train(stage, config, words, location, device, precision.bf16)
        room = _room(device)
        found = advice(
            stage, lambda other: plan_train(other, config, words, location, device, precision.bf16), room, device
        )
    except Exception:  # whatever stops the plan, the first error is the one to tell
        return general
    if found is None:
        return f"the plan needs {plan.memory.peak:,} bytes of {room:,}, and no change of keys known here makes it fit"
    sets = " ".join(f"--set stages.{context.stage}.{change}" for change in found.sets)
    return f"the plan needs {plan.memory.peak:,} bytes of {room:,}; this would fit: {sets}"


def _room(device: str) -> int:
    """Bytes that the run may take; an estimate that was too low by a tenth must not be advised again."""
    import psutil

    if device == "cuda":
        return round(0.9 * (torch.cuda.get_device_properties(0).total_memory - RESERVED))
    return round(0.9 * psutil.virtual_memory().available)
