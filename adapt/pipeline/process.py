"""Which process this is, where a launcher started several."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process may write: it is alone, or the first of those that torchrun or accelerate started."""
    return int(os.environ.get("RANK") or 0) == 0
