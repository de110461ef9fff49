"""What a recipe says about the processes that train together."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from math import gcd
from typing import Any, Literal

from adapt.errors import AdaptError
from adapt.settings import Count, Settings

Strategy = Literal["ddp", "fsdp2", "deepspeed"]


class Launch(Settings):
    """How many processes train together, and what each of them holds. It changes nothing of what a stage makes: an
    update reads `batch_size` x `gradient_accumulation` rows, however many processes share them."""

    processes: Count = 1
    """Processes on this machine that share the batches of each update, one for each GPU. For several machines leave
    this out and start `adapt run` with torchrun; see docs/cluster.md."""
    strategy: Strategy = "ddp"
    """What each process holds: the whole model (`ddp`), or an equal part of every tensor, gathered layer by layer when
    it is needed (`fsdp2`), or what `zero` says, through DeepSpeed (`deepspeed`; pip install 'adapt[deepspeed]')."""
    zero: Literal[2, 3] = 2
    """With `deepspeed`: the whole model, and an equal part of gradients and moments (2), or of the model as well (3).
    """

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """What cannot be done at all, as pairs of a key and what is wrong with it."""
        if self.strategy == "deepspeed" and find_spec("deepspeed") is None:
            yield "strategy", "'deepspeed' needs the package deepspeed; pip install 'adapt[deepspeed]', or use fsdp2"
        if self.strategy != "deepspeed" and "zero" in self.model_fields_set:
            yield "zero", f"is a stage of deepspeed; leave it out, or set strategy to deepspeed, not {self.strategy}"

    def changed_by(self, other: Launch | None) -> Launch:
        """With what `other` says in place of the same keys here; `zero` goes where the strategy that it is of goes."""
        if other is None:
            return self
        said, own = (each.model_dump(include=each.model_fields_set) for each in (self, other))
        if own.get("strategy", "deepspeed") != "deepspeed":
            said.pop("zero", None)
        return Launch(**(said | own))

    @property
    def split(self) -> dict[str, Any]:
        """What each process holds, as plain JSON for a job."""
        return {"strategy": self.strategy, "zero": self.zero}


def share_of(batch_size: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Rows at once and batches of one process, so that `processes` of them read what an update of one process reads.

    With g = gcd(accumulation, processes) it is `batch_size / (processes / g)` rows and `accumulation / g` batches: the
    batches are shared out first, and rows of a batch only where there are too few batches, so no process ever holds
    more rows at once than a single one would. Raises AdaptError where the rows cannot be shared evenly.
    """
    batches = gcd(accumulation, processes)
    rows = processes // batches
    if batch_size % rows:
        raise AdaptError(
            f"an update of batch_size {batch_size} x gradient_accumulation {accumulation} cannot be shared evenly by "
            f"{processes} processes; make gradient_accumulation a multiple of {processes}"
        )
    return batch_size // rows, accumulation // batches
