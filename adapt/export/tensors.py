"""Reading a tensor of a safetensors file into memory of its own, which is free again when nobody holds it."""

from __future__ import annotations

import torch

from merge.checkpoint import TensorFiles


def read_tensor(files: TensorFiles, name: str) -> torch.Tensor:
    """The tensor, copied: pages of a mapped file would stay with the process, and a large model would fill it."""
    info = files.tensors[name]
    tensor = torch.empty(info.shape, dtype=info.dtype)
    files.read(name, 0, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return tensor
