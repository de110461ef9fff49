"""Hashes of tensors, taken while they are read and written anyway.

xxh3 (128 bits) tells whether bytes are the same and costs a small part of a copy; it is no protection against somebody
who forges a file on purpose.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

_READ = 2**22


@dataclass
class Running:
    """The hash of a tensor's bytes, as far as they were seen in order."""

    size: int
    seen: int = 0
    state: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def update(self, place: int, part: memoryview) -> None:
        """Bytes from `place` on; what does not follow on the last bytes seen is passed over."""
        if place == self.seen:
            self.state.update(part)
            self.seen += len(part)

    @property
    def complete(self) -> bool:
        """Whether every byte was seen."""
        return self.seen == self.size


@dataclass
class Hashes:
    """The running hash of each model's tensors. Each tensor is read by one thread at a time."""

    running: dict[tuple[str, str], Running] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, model: str, tensor: str, size: int) -> Running:
        """The running hash of a tensor; parts of a formula that read the same tensor share it."""
        with self.lock:
            return self.running.setdefault((model, tensor), Running(size))

    def finish(self, model: str, tensor: str, size: int, read: Callable[[int, memoryview], None]) -> str:
        """The hash of a tensor; what was not yet seen of it is read."""
        return of_bytes(read, size, self.of(model, tensor, size))


def of_bytes(read: Callable[[int, memoryview], None], size: int, begin: Running | None = None) -> str:
    """The hash of `size` bytes that `read(place, into)` gives; it goes on from `begin`."""
    running = begin or Running(size)
    buffer = memoryview(bytearray(max(1, min(size, _READ))))
    while not running.complete:
        part = buffer[: min(_READ, size - running.seen)]
        read(running.seen, part)
        running.update(running.seen, part)
    return running.state.hexdigest()


def fingerprint(tensors: Mapping[str, str]) -> str:
    """One hash for a model: of its tensors' names and hashes, whatever files they lie in."""
    lines = "".join(f"{name} {tensors[name]}\n" for name in sorted(tensors))
    return xxhash.xxh3_128_hexdigest(lines.encode())


def file_hash(path: Path) -> str:
    """The hash of a whole file, computed as a tensor's is."""
    with path.open("rb") as file:

        def read(place: int, part: memoryview) -> None:
            file.seek(place)
            file.readinto(part)

        return of_bytes(read, path.stat().st_size)
