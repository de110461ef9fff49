"""The memory that a run really takes: the peak of its tensors.

On a GPU torch counts. On a CPU a thread asks the C library a hundred times a second how much it has given out, and the
system how many anonymous pages the process has; both are counted from before the model is loaded, and weights that are
mapped from their files, which are neither, are added. The second number is larger: the C library keeps what tensors of
less than 32 MB give back.
"""

from __future__ import annotations

import ctypes
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

_EVERY = 0.01
"""Seconds between two looks."""
_STATUS = Path("/proc/self/status")
_MAPS = Path("/proc/self/maps")
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*\.safetensors$", re.MULTILINE)


class _Mallinfo2(ctypes.Structure):
    """What glibc's `mallinfo2` returns; `uordblks` and `hblkhd` are the bytes given out from the heap and by mmap."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def allocated_bytes() -> int | None:
    """Bytes that the C library has given out; None where it is not glibc from 2.33 on."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def anonymous_bytes() -> int | None:
    """Bytes of main memory that no file backs; None where the system does not tell."""
    try:
        match = _ANONYMOUS.search(_STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def mapped_bytes(model: Any) -> int:
    """Bytes of a model's tensors that lie in files mapped into memory."""
    try:
        places = [(int(low, 16), int(high, 16)) for low, high in _MAPPED.findall(_MAPS.read_text(encoding="utf-8"))]
    except OSError:
        return 0
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for start, size in tensors.items() if any(low <= start < high for low, high in places))


class Meter:
    """Made before the model is loaded; measures while its block runs."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.init()
        self._before = torch.cuda.memory_allocated() if self.cuda else allocated_bytes()
        self._resident_before = anonymous_bytes()
        self._most, self._resident, self._mapped = 0, 0, 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, model: Any) -> Meter:
        """The meter, to be used in a `with` statement around the training of a model."""
        self._mapped = 0 if self.cuda else mapped_bytes(model)
        return self

    def __enter__(self) -> Meter:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_EVERY):
            self._most = max(self._most, allocated_bytes() or 0)
            self._resident = max(self._resident, anonymous_bytes() or 0)

    @property
    def resident(self) -> int | None:
        """Bytes of pages above those that the process had before the model; None on a GPU or where nothing tells."""
        if self.cuda or self._resident_before is None:
            return None
        return max(0, self._resident - self._resident_before) + self._mapped

    @property
    def peak(self) -> int | None:
        """Bytes of tensors above what was there before the model; None where nothing tells."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self._before
        if self._before is None:
            return self.resident
        return max(0, self._most - self._before) + self._mapped
