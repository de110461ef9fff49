"""What of a training stage does not go with its data or its processes, seen before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from adapt.errors import AdaptError
from adapt.launch.settings import Launch, share_of
from adapt.stages.base import Complaint

if TYPE_CHECKING:
    from adapt.data.sources import Source
    from adapt.stages.train import Train

_SPLIT_METHODS = ("full", "half", "freeze", "spectrum", "bitfit", "norms", "rows", "lora", "qlora")
_ONLY_FSDP2 = ("loram", "pruned", "vera")
_SPLIT_OBJECTIVES = {"fsdp2": ("causal_lm", "sft", "dpo", "orpo"), "deepspeed": ("causal_lm", "sft")}
_LOW_RANK = ("refactor", "rank_select", "average")
"""What works on whole matrices beside the steps."""


def with_sources(stage: Train, sources: Mapping[str, Source]) -> Iterator[Complaint]:
    """What the method lacks in the sources, and those of the wrong kind for the objective, as far as a local file's
    first document tells."""
    from adapt.data.documents import mismatches

    general = stage.general_source if stage.general_source in stage.mixture else None
    read = [*stage.mixture, *({stage.general_source} - {None, *stage.mixture})]
    for field, message in stage.method.unfit(read, stage.objective.form, general):
        yield Complaint(("method", field), message)
    for message in mismatches(sources, stage.mixture, stage.objective.form):
        yield Complaint(("objective",), message)


def with_processes(stage: Train, launch: Launch) -> Iterator[Complaint]:
    """What of a training stage does not go with the processes and with what each of them holds."""
    try:
        share_of(stage.batch_size, stage.gradient_accumulation, launch.processes)
    except AdaptError as error:
        yield Complaint(("gradient_accumulation",), str(error))
    length = getattr(stage.method, "length", lambda: None)()
    if length is not None:
        message = "drawing anew within a run works in one process only; draw once for the stage, or launch one process"
        yield Complaint(("method",), message)
    if launch.strategy != "ddp":
        yield from _unsplit(stage, launch)


def _unsplit(stage: Train, launch: Launch) -> Iterator[Complaint]:
    """What does not go with processes of which each holds a part."""
    kind, strategy, instead = stage.method.kind, launch.strategy, "use launch.strategy ddp"
    if kind in _ONLY_FSDP2 and strategy == "deepspeed":
        yield Complaint(
            ("method", "kind"), f"'{kind}' does not go with deepspeed yet; use launch.strategy fsdp2 or ddp"
        )
    elif kind not in (*_SPLIT_METHODS, *_ONLY_FSDP2):
        message = f"'{kind}' does not go with {strategy}: it changes what trains within the run; {instead}"
        yield Complaint(("method", "kind"), message)
    if strategy == "deepspeed" and getattr(stage.method, "frozen", None) == "nf4":
        yield Complaint(("method", "frozen"), f"'nf4' does not go with {strategy} yet; {instead}")
    for key in _LOW_RANK:
        if getattr(stage.method, key, None) is not None:
            why = "it works on whole matrices, of which a process has a part"
            yield Complaint(("method", key), f"does not go with {strategy}: {why}; {instead}")
    if stage.optimizer.kind != "adamw":
        kind = stage.optimizer.kind
        message = f"'{kind}' does not go with {strategy}: it works on whole tensors; use adamw, or launch.strategy ddp"
        yield Complaint(("optimizer", "kind"), message)
    if stage.activation_offloading:
        yield Complaint(("activation_offloading",), f"does not go with {strategy} yet; {instead}")
    if stage.objective.kind not in _SPLIT_OBJECTIVES[strategy]:
        yield Complaint(("objective",), f"'{stage.objective.kind}' does not go with {strategy} yet; {instead}")
    if strategy == "deepspeed" and launch.zero == 3:
        yield from _without_weights(stage)


def _without_weights(stage: Train) -> Iterator[Complaint]:
    """What asks for weights outside their own layer's pass, where ZeRO's stage 3 has taken them away."""
    instead = "set launch.zero to 2, or use launch.strategy fsdp2"
    if stage.method.kind == "qlora":
        message = f"'qlora' does not go with zero 3, which would split its 4-bit weights; {instead}"
        yield Complaint(("method", "kind"), message)
    if getattr(stage.method, "dora", False):
        message = f"does not go with zero 3: it asks for whole weights beside the layer's own pass; {instead}"
        yield Complaint(("method", "dora"), message)
