"""What a recipe says about the processes that train together."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Literal

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
    it is needed (`fsdp2`). `deepspeed` is refused: `fsdp2` shards the same."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """What cannot be done at all, as pairs of a key and what is wrong with it."""
        if self.strategy == "deepspeed":
            yield "strategy", "'deepspeed' is not supported; 'fsdp2' shards the same without a further package"


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
