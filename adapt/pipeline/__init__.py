"""The graph of stages: content keys, folders renamed into place whole, manifests, a lock, and the runner."""

from adapt.pipeline.crew import follow
from adapt.pipeline.failures import StoppedError
from adapt.pipeline.graph import Graph
from adapt.pipeline.manifest import read_manifest
from adapt.pipeline.outcome import Outcome, StageResult
from adapt.pipeline.plan import StageStatus, Step, status
from adapt.pipeline.process import check_tasks, is_main_process
from adapt.pipeline.runner import run

__all__ = [
    "Graph",
    "Outcome",
    "StageResult",
    "StageStatus",
    "Step",
    "StoppedError",
    "check_tasks",
    "follow",
    "is_main_process",
    "read_manifest",
    "run",
    "status",
]
