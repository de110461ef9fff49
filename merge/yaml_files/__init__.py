"""Merges written as YAML: mergekit's files as they are, and expressions with their models."""

from __future__ import annotations

from merge.yaml_files.by_mergekit import run_mergekit
from merge.yaml_files.prepare import prepare_yaml

__all__ = ["prepare_yaml", "run_mergekit"]
