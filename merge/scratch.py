"""Matrices too large to be held: each lies in a file without a name, whose pages the kernel writes out as it needs."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import torch

from merge.errors import MergeError

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def scratch(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Zeros `[rows, columns]`, float32 or float64, in a file in the folder for temporary files (`TMPDIR`).

    The file goes with the tensor. Raises MergeError where the folder has no room for it.
    """
    size = max(1, rows * columns * dtype.itemsize)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a page that no disk holds would end the process
        except OSError as error:
            raise MergeError(
                f"'{tempfile.gettempdir()}' has no room for {size / 1e6:.0f} MB of intermediate results: "
                f"{error.strerror}; free some space or set TMPDIR"
            ) from error
        return torch.from_numpy(np.memmap(file, _NUMPY[dtype], mode="r+", shape=(rows, columns)))
