"""Arithmetic on whole checkpoints: `cpt + 0.8 * (instruct - base)`, with rows matched by token, streamed from disk.

import merge

plan = merge.prepare("cpt + 0.8 * (instruct - base)", {"cpt": ..., "instruct": ..., "base": ...})
merge.write(plan, "merged")

Stands alone: torch, safetensors and the JSON files of a checkpoint are all that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["METHODS", "MergeError", "extract", "inspect_vectors", "merge_tensors", "prepare", "verify", "write"]

if TYPE_CHECKING:
    from merge.engine import write
    from merge.errors import MergeError
    from merge.inspect import inspect as inspect_vectors
    from merge.methods import METHODS, merge_tensors
    from merge.planning import prepare
    from merge.task_vectors import extract
    from merge.verification import verify

_PLACES = {
    "METHODS": ("merge.methods", "METHODS"),
    "MergeError": ("merge.errors", "MergeError"),
    "extract": ("merge.task_vectors", "extract"),
    "inspect_vectors": ("merge.inspect", "inspect"),
    "merge_tensors": ("merge.methods", "merge_tensors"),
    "prepare": ("merge.planning", "prepare"),
    "verify": ("merge.verification", "verify"),
    "write": ("merge.engine", "write"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import merge` alone loads no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'merge' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
