"""What a straight run of the small recipe makes, and folders to break it in."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.workshop import STAGES, make_workshop, until


@pytest.fixture(scope="session")
def straight(tmp_path_factory) -> Path:
    """The recipe's folder after a run that nothing disturbed. It is run in this process, so that forks are warm."""
    import adapt
    from adapt.display import Display

    folder = make_workshop(tmp_path_factory.mktemp("straight"))
    here = Path.cwd()
    os.chdir(folder)
    try:
        adapt.run("recipe.yaml", display=Display(Console(file=io.StringIO())))
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def quick_disk(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of files are synced."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def shop(straight, quick_disk) -> Callable[..., Path]:
    """A new folder with the recipe, its inputs, and what a run up to a stage (that one not) has made."""
    count = 0

    def make(before: str = STAGES[0], name: str = "") -> Path:
        nonlocal count
        count += 1
        folder = quick_disk / (name or f"shop-{count}")
        shutil.copytree(straight, folder, ignore=shutil.ignore_patterns("runs", ".out", ".err"))
        until(folder, STAGES[: STAGES.index(before)], straight)
        return folder

    return make
