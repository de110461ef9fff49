"""Which process this is, where a launcher started several."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process may write: it is alone, or the first of those that torchrun or accelerate started."""
    return int(os.environ.get("RANK") or 0) == 0


def started_by_launcher() -> bool:
    """Whether torchrun, accelerate or the like started this process together with others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ
