"""Which process this is, where a launcher started several."""

from __future__ import annotations

import os

from adapt.errors import AdaptError


def is_main_process() -> bool:
    """Whether this process may write: it is alone, or the first of those that torchrun or accelerate started."""
    return int(os.environ.get("RANK") or 0) == 0


def check_tasks() -> None:
    """Raises AdaptError where srun started this several times, and nothing tells the copies who they are."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if tasks > 1 and "RANK" not in os.environ:
        raise AdaptError(
            f"srun has started this {tasks} times, and none of them knows of the others; let srun start torchrun on "
            "each node, as docs/cluster/job.sbatch does, or start one task"
        )


def started_by_launcher() -> bool:
    """Whether torchrun, accelerate or the like started this process together with others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ
