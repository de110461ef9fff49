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

_SHARDED_METHODS = ("full", "half", "freeze", "spectrum", "bitfit", "norms", "rows", "lora", "qlora")
_NOT_SHARDED = {
    "loram": "its base is pruned or in 4 bits",
    "pruned": "its base is pruned or in 4 bits",
    "vera": "all its layers share two matrices, and a part of a model cannot be gathered without the others",
}
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
    if launch.strategy == "fsdp2":
        yield from _unsharded(stage)


def _unsharded(stage: Train) -> Iterator[Complaint]:
    kind = stage.method.kind
    instead = "use launch.strategy ddp"
    if kind not in _SHARDED_METHODS:
        reason = _NOT_SHARDED.get(kind, "it changes what trains within the run")
        yield Complaint(("method", "kind"), f"'{kind}' does not go with fsdp2: {reason}; {instead}")
    if getattr(stage.method, "frozen", None) == "nf4":
        yield Complaint(("method", "frozen"), f"'nf4' does not go with fsdp2 yet; {instead}")
    for key in _LOW_RANK:
        if getattr(stage.method, key, None) is not None:
            message = f"does not go with fsdp2: it works on whole matrices, of which a process has a part; {instead}"
            yield Complaint(("method", key), message)
    if stage.objective.kind in ("dpo", "orpo"):
        yield Complaint(("objective",), f"'{stage.objective.kind}' does not go with fsdp2 yet; {instead}")
    if stage.optimizer.kind != "adamw":
        kind = stage.optimizer.kind
        message = f"'{kind}' does not go with fsdp2: it works on whole tensors; use adamw, or launch.strategy ddp"
        yield Complaint(("optimizer", "kind"), message)
    if stage.activation_offloading:
        yield Complaint(("activation_offloading",), f"does not go with fsdp2 yet; {instead}")
