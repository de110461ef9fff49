"""The ways to combine models; one file each, and a line in the table."""

from __future__ import annotations

from merge.methods.base import REQUIRED, Block, Method, Parameter, Values
from merge.methods.on_tensors import merge_tensors

_ALL: tuple[type[Method], ...] = ()

METHODS: dict[str, type[Method]] = {method.name: method for method in _ALL}
"""Every method by its name."""

__all__ = ["METHODS", "REQUIRED", "Block", "Method", "Parameter", "Values", "merge_tensors"]
