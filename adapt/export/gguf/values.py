"""Number formats of GGUF: F32 for vectors, F16, BF16 or Q8_0 for matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from adapt.errors import AdaptError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["f16", "bf16", "q8_0"]
BLOCK = 32
"""Values of a row that share a scale in Q8_0."""
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}


def kind_of(shape: tuple[int, ...], asked: Kind) -> str:
    """The format of a tensor: vectors (norms, biases) stay in f32; rows that Q8_0 cannot divide are f16."""
    if len(shape) < 2:
        return "f32"
    return "f16" if asked == "q8_0" and shape[-1] % BLOCK else asked


def shape_of(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape of the encoded array; bytes in the last dimension where numpy has no such type."""
    width = {"bf16": 2 * shape[-1], "q8_0": shape[-1] // BLOCK * (BLOCK + 2)}
    return (*shape[:-1], width.get(kind, shape[-1]))


def encoded(values: torch.Tensor, kind: str, name: str) -> np.ndarray[Any, Any]:
    """A tensor in a format of GGUF; rounded to the nearest, in Q8_0 with a scale for each 32 values of a row.

    Raises AdaptError for values that f16 cannot hold.
    """
    if kind == "f32":
        return values.float().numpy()
    if kind == "bf16":
        return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kind == "f16":
        half = values.to(torch.float16)
        if not bool(torch.isfinite(half).all()):
            raise AdaptError(f"GGUF: '{name}' holds values beyond 65504, the largest of f16; write bf16 or q8_0")
        return half.numpy()
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return quantize(values.float().numpy(), GGMLQuantizationType.Q8_0)


def decoded(data: np.ndarray[Any, Any], kind: str) -> torch.Tensor:
    """The values in float32, by the gguf package's own reading."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(np.ascontiguousarray(dequantize(data, GGMLQuantizationType[kind.upper()])).copy())


def block_error(values: torch.Tensor) -> torch.Tensor:
    """The most by which Q8_0 may be off at each value of `values [n, c]`.

    A block's scale is `d = max |x| / 127`, stored as f16 with a relative error of 2^-11 (below 2^-14 an absolute one of
    2^-25); a value is off by half a step and by its multiple of the scale's error.
    """
    blocks = values.float().reshape(values.shape[0], -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    off = torch.maximum(scale * 2.0**-11, torch.full_like(scale, 2.0**-25))
    return ((scale / 2 + 127 * off) * (1 + 1e-5) + 1e-12).expand_as(blocks).reshape(values.shape)
