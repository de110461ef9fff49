"""A plan in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from adapt.display import Display, duration_text, short, size_text
from adapt.planning.gpus import usable
from adapt.planning.recipe import RecipePlan, StagePlan


def show(plan: RecipePlan, display: Display) -> None:
    """One row a stage, the parts of each stage's memory, and what would make it fit."""
    gpu = plan.gpu
    where = (
        f"{gpu.name}, {size_text(gpu.memory)}, {size_text(usable(gpu))} for tensors" if gpu else f"this {plan.device}"
    )
    columns = ("stage", "kind", "peak", "main memory", "disk", "and meanwhile", "tokens", "steps", "time", "verdict")
    display.table(f"{plan.recipe} on {where}", columns, [_row(stage) for stage in plan.stages])
    for stage in plan.stages:
        for line in _lines(stage):
            display.line(line)


def _row(stage: StagePlan) -> list[object]:
    budget, duration = stage.budget, stage.duration
    return [
        stage.name,
        stage.kind,
        size_text(stage.memory.total) if stage.memory else "",
        size_text(stage.host) if stage.host else "",
        size_text(stage.disk) if stage.disk else "",
        size_text(stage.scratch) if stage.scratch else "",
        "" if budget is None or budget.tokens is None else f"{budget.tokens:,}",
        "" if budget is None or budget.steps is None else f"{budget.steps:,}",
        duration_text(duration.seconds) if duration else "",
        stage.verdict,
    ]


def _lines(stage: StagePlan) -> Iterator[str]:
    if stage.memory is not None:
        parts = [f"{name} {size_text(size)}" for name, size in stage.memory.parts.items() if size]
        parts += [f"framework {size_text(stage.memory.framework)}"] if stage.memory.framework else []
        yield f"{stage.name}: {', '.join(parts)}"
    if stage.trainable is not None:
        numbers = stage.trainable
        yield (
            f"  trains {short(numbers['parameters'])} numbers: {numbers['blocks_share']:.2%} of the blocks, "
            f"{numbers['share']:.2%} of the model"
        )
    if stage.duration is not None:
        yield f"  {short(round(stage.duration.tokens_per_second))} tokens/s: {stage.duration.basis}"
    if stage.budget is not None and stage.budget.stated:
        yield f"  tokens by: {stage.budget.stated}"
    if stage.note:
        yield f"{stage.name}: no estimate: {stage.note}"
    if stage.verdict == "does not fit":
        yield from _advice(stage)


def _advice(stage: StagePlan) -> Iterator[str]:
    if stage.advice is None:
        yield "  does not fit, and no change of keys known here makes it fit; take a smaller model or another GPU"
        return
    yield f"  does not fit; this does, with {size_text(stage.advice.peak)} ({stage.advice.cost}):"
    yield "    " + " ".join(f"--set stages.{stage.name}.{change}" for change in stage.advice.sets)
