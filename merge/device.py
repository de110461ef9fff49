"""Where a merge is computed: in host memory, or on a GPU to which blocks are brought and from which they come back.

The bytes of files pass through host memory either way. On a GPU it is page-locked and every worker thread has a stream
of its own, so one thread's copies and another's arithmetic go on at once; what is held there is a few blocks a thread,
whatever the size of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from merge.errors import MergeError

CPU = torch.device("cpu")
BLOCKS = {"cpu": 2**18, "cuda": 2**21}
"""Elements of each input that are held at once. Fewer stay nearer to a core, but then the calls of operations take a
third of the time; a GPU takes more."""
_THREADS_OF_A_GPU = 4


def device_of(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda` or `cuda:1`. Raises MergeError for one that there is not."""
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise MergeError(f"there is no device '{name}'; give cpu, cuda or cuda:N")
    if kind == "cpu":
        return CPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise MergeError(f"'{name}' needs a GPU that torch can use, and there is none here; give cpu")
    if int(number or 0) >= count:
        raise MergeError(f"there is no device '{name}'; the last GPU here is cuda:{count - 1}")
    return torch.device("cuda", int(number or 0))


def block_size(device: torch.device) -> int:
    """Elements of each input that are held at once."""
    return BLOCKS.get(device.type, BLOCKS["cuda"])


def workers_for(device: torch.device, cores: int) -> int:
    """Tensors merged at once unless a number is given: one a core; for a GPU enough to hide the copies."""
    return cores if device.type == "cpu" else min(cores, _THREADS_OF_A_GPU)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """A stream for the calling thread, so that it waits for no other's work."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield


class Inlet:
    """Host memory into which `count` elements of a file are read, and the same on the device, converted.

    `bytes()` gives the host memory to fill, `values(n)` the first n elements on the device in `kind`; they are the
    caller's until it asks again.
    """

    def __init__(self, count: int, dtype: torch.dtype, kind: torch.dtype, device: torch.device) -> None:
        self.raw = torch.zeros(count, dtype=dtype, pin_memory=device.type == "cuda")
        self._bytes = memoryview(self.raw.view(torch.uint8).numpy()) if count else memoryview(b"")
        self._device = device
        same = device.type == "cpu" and dtype == kind
        self._values = self.raw if same else torch.empty(count, dtype=kind, device=device)
        self._copied = torch.cuda.Event(blocking=True) if device.type == "cuda" else None

    def bytes(self) -> memoryview:
        """The host memory, once nothing is copied from it any more."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._bytes

    def values(self, count: int) -> torch.Tensor:
        """What was read, float32 or float64 `[count]` on the device."""
        whole = count == len(self.raw)
        result = self._values if whole else self._values[:count]
        if self._values is not self.raw:
            raw = self.raw if whole else self.raw[:count]
            result.copy_(raw if self._copied is None else raw.to(self._device, non_blocking=True))
        if self._copied is not None:
            self._copied.record()
        return result


class Outlet:
    """Brings results back to host memory; on the CPU they are there."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(count, dtype=dtype, pin_memory=True) if device.type == "cuda" else None

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """The block in host memory; the caller's until it asks again."""
        if self._host is None:
            return block.cpu()
        host = self._host[: block.numel()]
        host.copy_(block.reshape(-1), non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return host.view(block.shape)
