"""The machine: accelerators, memory, number formats, disk, and the way to the hub."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from adapt.display import size_text
from adapt.doctor.finding import Finding

_PART = "machine"
_LITTLE_DISK = 2_000_000_000
_SIDE = 512
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def machine() -> Iterator[Finding]:
    """GPUs, processor, memory, bf16, disk, hub."""
    yield from _gpus()
    yield _memory()
    yield _bf16()
    yield _disk()
    yield _hub()


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = (
            f"torch {torch.__version__} is built for CUDA {built}"
            if built
            else f"torch {torch.__version__} has no CUDA"
        )
        fix = "check the driver with nvidia-smi" if built else "install torch for your CUDA: pytorch.org/get-started"
        yield Finding(_PART, "GPU", "missing", f"none; {why}", fix)
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{device.name}, {size_text(total)}, {size_text(free)} free, capability {device.major}.{device.minor}"
        yield Finding(_PART, f"GPU {index}", "ok", f"{text}, CUDA {torch.version.cuda}")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{size_text(memory.total)}, {size_text(memory.available)} free; {cores} cores"
    return Finding(_PART, "memory", "ok", text)


def _bf16() -> Finding:
    """A matrix product in both formats: what bf16 gains here."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        times = {dtype: _product_seconds(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    except RuntimeError as error:
        return Finding(_PART, "bf16", "missing", f"does not work: {str(error).splitlines()[0]}", "use precision: fp32")
    gain = times[torch.float32] / times[torch.bfloat16]
    text = f"a product of {_SIDE} by {_SIDE} takes {1 / gain:.2g} times the time of fp32"
    slow = "" if gain > 1 else "; precision: fp32 is the better choice here"
    return Finding(_PART, "bf16", "ok", text + slow)


def _product_seconds(dtype: object, device: str) -> float:
    import torch

    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - start)
    return best


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    text = f"{size_text(free)} free in '{here}'"
    if free < _LITTLE_DISK:
        return Finding(
            _PART, "disk", "missing", text, "free some, or set runs: to another disk; see adapt runs --prune"
        )
    return Finding(_PART, "disk", "ok", text)


def _hub() -> Finding:
    """Whether models may be fetched: what the environment says, else whether the hub answers."""
    for name in _OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON"):
            text = f"switched off by {name}; models on this disk load"
            return Finding(_PART, "hub", "missing", text, f"unset {name} to fetch models")
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError as error:
        fix = "use folders on this disk as models, or set HF_ENDPOINT to a mirror"
        return Finding(_PART, "hub", "missing", f"{address.hostname} does not answer: {error}", fix)
    return Finding(_PART, "hub", "ok", f"{address.hostname} answers")
