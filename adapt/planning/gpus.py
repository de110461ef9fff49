"""GPUs by name: their memory, and the speed that their data sheets state."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapt.errors import AdaptError

UTILISATION = 0.35
"""The share of the stated peak that training is taken to reach where nothing was measured."""
RESERVED = 800_000_000
"""Bytes that no tensor gets: the CUDA context and the libraries' own kernels and work space. Stated, not measured."""
SLACK = 0.03
"""The share of the tensors' peak that the allocator holds besides, in blocks that do not fit. Stated, not measured."""


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes; `peak` in FLOP/s, of dense products in bf16 with sums in float32, None where it is unknown."""

    name: str
    memory: int
    peak: float | None = None


_GIB = 2**30
_TABLE = {
    "rtx3060": (12, 51e12),
    "rtx3090": (24, 71e12),
    "rtx4060ti": (16, 88e12),
    "rtx4070": (12, 117e12),
    "rtx4080": (16, 195e12),
    "rtx4090": (24, 165e12),
    "rtx5090": (32, 210e12),
    "rtxa6000": (48, 155e12),
    "l4": (24, 121e12),
    "a10": (24, 125e12),
    "a40": (48, 150e12),
    "l40s": (48, 362e12),
    "a100-40gb": (40, 312e12),
    "a100": (80, 312e12),
    "h100": (80, 989e12),
    "h200": (141e9 / _GIB, 989e12),
    "b200": (180e9 / _GIB, 2250e12),
}
"""GiB and FLOP/s by NVIDIA's data sheets; dense (half of what they state with sparsity)."""


def gpu_of(text: str) -> Gpu:
    """A GPU by name (`rtx4090`, `RTX 4090`) or by memory (`24GB`). Raises AdaptError for anything else."""
    name = re.sub(r"nvidia|geforce|[\s_]", "", text.lower())
    for key in (name, name.replace("-", "")):
        if key in _TABLE:
            memory, peak = _TABLE[key]
            return Gpu(key, round(memory * _GIB), peak)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib|g)", name)
    if match is None or float(match[1]) == 0:
        raise AdaptError(
            f"--gpu '{text}' is no GPU known here; give its memory, as in 24GB, or one of {', '.join(_TABLE)}"
        )
    return Gpu(text, round(float(match[1]) * _GIB))


def usable(gpu: Gpu) -> int:
    """Bytes of a GPU that tensors may take."""
    return round((gpu.memory - RESERVED) / (1 + SLACK))
