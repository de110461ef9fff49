"""A merge file handed to mergekit itself, for what is not built here: mixtures of experts, modules, searches."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from merge.errors import MergeError
from merge.yaml_files.document import Entry, read_yaml
from merge.yaml_files.settings_files import RECIPE

_YAML, _MOE, _EVOLVE = "mergekit.scripts.run_yaml", "mergekit.scripts.moe", "mergekit.scripts.evolve"
_EVOLVE_NEEDS = ("cma", "lm_eval", "ray")


def run_mergekit(path: Path, output: Path, options: Sequence[str] = ()) -> None:
    """Let mergekit merge what a file says into a new folder, which appears whole or not at all.

    `options` go to its command as they are, for example `["--cuda"]`. Raises MergeError where mergekit is not
    installed or fails, and where `output` holds something already.
    """
    if importlib.util.find_spec("mergekit") is None:
        raise MergeError("mergekit is not installed; install it with: pip install 'mergekit>=0.1.5,<0.2'")
    documents = read_yaml(path)
    if len(documents) != 1:
        raise MergeError(f"'{path}' holds {len(documents)} merges; give each a file of its own")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MergeError(f"'{output}' is not empty; give a new folder, so that no stale file stays beside the result")
    place = output.with_name(f".{output.name}.mergekit")
    command = _command(documents[0], path, place)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run([*command, *options], path)
        (place / RECIPE).write_bytes(path.read_bytes())
        if output.exists():
            output.rmdir()
        os.replace(place, output)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _command(root: Entry, path: Path, place: Path) -> list[str]:
    """What mergekit is called with for a kind of file. Raises YamlError where a search lacks the packages it needs."""
    given = root.mapping("the file")
    if "genome" in given:
        lacking = [name for name in _EVOLVE_NEEDS if importlib.util.find_spec(name) is None]
        if lacking:
            needs = ", ".join(lacking)
            raise root.fail(f"a search by mergekit-evolve needs {needs}; install them: pip install 'mergekit[evolve]'")
        return [sys.executable, "-m", _EVOLVE, str(path), "--storage-path", str(place)]
    if "experts" in given:
        return [sys.executable, "-m", _MOE, str(path), str(place)]
    # the model card asks the hub about every path that looks like a hub id, and fails without a network
    return [sys.executable, "-m", _YAML, str(path), str(place), "--no-write-model-card"]


def _run(command: list[str], path: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise MergeError(f"mergekit could not merge '{path}': {reason}")
