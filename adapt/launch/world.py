"""The processes that train together, as one of them sees them; a process alone is a world of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from adapt.errors import AdaptError
from adapt.launch.settings import Strategy

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")
_LOOK = timedelta(seconds=30)
"""How long one look at the board waits; it is repeated without an end, as a stage before this one may take days."""


class Board:
    """Where processes leave notes for each other: plain JSON under names, in a key-value store of torch."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def post(self, name: str, value: Any) -> None:
        """Leave a note."""
        self._store.set(f"{self._prefix}/{name}", json.dumps(value))

    def has(self, name: str) -> bool:
        """Whether there is a note of that name."""
        return bool(self._store.check([f"{self._prefix}/{name}"]))

    def read(self, name: str) -> Any:
        """Wait for a note and read it. Raises torch's DistError where the store is gone."""
        import torch.distributed

        key = f"{self._prefix}/{name}"
        while True:
            try:
                self._store.wait([key], _LOOK)
                return json.loads(self._store.get(key))
            except torch.distributed.DistStoreError as error:
                if "timeout" not in str(error).lower():
                    raise


@dataclass(frozen=True)
class World:
    """How many processes there are, which one this is (`rank`, and `local` on its machine), what each holds."""

    rank: int = 0
    size: int = 1
    local: int = 0
    strategy: Strategy = "ddp"
    zero: int = 2
    """The stage of DeepSpeed's ZeRO."""
    board: Board | None = None
    _turns: Any = field(default_factory=count, compare=False)

    @property
    def main(self) -> bool:
        """Whether this process writes: it is the only one, or the first."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether every process holds only its part of the model, or of what training it takes."""
        return self.size > 1 and self.strategy != "ddp"

    def first(self, work: Callable[[], T]) -> T:
        """Do `work` in every process, in the first one before all others: they find what it has written."""
        if self.size == 1 or self.board is None:
            return work()
        name = f"first/{next(self._turns)}"
        if not self.main:
            self.board.read(name)
            return work()
        found = work()
        self.board.post(name, True)
        return found

    def told(self, decide: Callable[[], T]) -> T:
        """What the first process decides, in all of them. It must be plain JSON."""
        if self.size == 1 or self.board is None:
            return decide()
        name = f"told/{next(self._turns)}"
        if self.main:
            self.board.post(name, decide())
        return self.board.read(name)


ALONE = World()


def world_of(environment: Mapping[str, str], board: Board | None, strategy: Strategy, zero: int = 2) -> World:
    """The world that torchrun, accelerate or `adapt` itself put into a process's environment."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, size, local = (int(environment.get(name) or default) for name, default in zip(names, (0, 1, 0), strict=True))
    return World(rank, size, local, strategy, zero, board)


def connect(prefix: str, environment: Mapping[str, str]) -> Board:
    """The board of the processes that share MASTER_ADDR and MASTER_PORT."""
    from torch.distributed import TCPStore

    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        size,
        is_master=rank == 0 and not hosted,
        timeout=timedelta(minutes=10),
        wait_for_workers=False,
        multi_tenant=True,
    )
    return Board(store, prefix)


def check_devices(processes: int) -> None:
    """Raises AdaptError where there are GPUs, but fewer than processes."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise AdaptError(
            f"launch.processes is {processes}, but this machine has {torch.cuda.device_count()} GPUs; a process needs "
            "one of its own"
        )


def take_device(world: World) -> None:
    """Make the process's own GPU the current one, where there are GPUs."""
    import torch

    if torch.cuda.is_available() and world.size > 1:
        torch.cuda.set_device(world.local)
