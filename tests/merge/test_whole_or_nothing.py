"""An output is whole or not there: two merges at once, full disks, places that cannot be written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from merge.engine import unfinished, write
from merge.errors import MergeError
from merge.planning import prepare
from tests.merge.reliability import ROOT, SUM, files, places, relatives, run


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return relatives(tmp_path_factory)


STOPPING = """
import json, os, signal, sys
from pathlib import Path
from merge.engine import write
from merge.planning import prepare
once = []
def progress(done, total):
    if not once:
        once.append(os.kill(os.getpid(), signal.SIGSTOP))
write(prepare(sys.argv[1], json.loads(sys.argv[2])), Path(sys.argv[3]), progress=progress)
"""


def test_two_merges_to_one_folder(family, tmp_path):
    out = tmp_path / "out"
    folders = json.dumps({name: str(family.folders[name]) for name in ("base", "cpt", "instruct")})
    first = subprocess.Popen([sys.executable, "-c", STOPPING, SUM, folders, str(out)], cwd=ROOT)
    try:
        _wait_until_stopped(first.pid)
        code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", out)
        assert code == 1
        assert errors.splitlines() == [
            f"another merge is writing to '{unfinished(out)}'; wait for it or give another folder"
        ]
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait(60) == 0
    write(prepare(SUM, family.folders), tmp_path / "alone")
    assert files(out) == files(tmp_path / "alone")


def _wait_until_stopped(pid: int) -> None:
    for _ in range(600):
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "T":
            return
        time.sleep(0.05)
    raise AssertionError("the first merge never got to its first tensor")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_known_before(family, small_disk):
    (small_disk / "other").write_bytes(bytes(700_000))
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", small_disk / "out")
    assert code == 1
    assert errors.count("\n") == 1
    assert "needs 0.5 MB, but only 0.3 MB are free there; free some space or give another folder" in errors
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def _written(handle: int) -> int:
    try:
        return os.write(handle, bytes(4096))
    except OSError:
        return 0


def test_a_disk_that_fills_up_meanwhile(family, small_disk):
    def fill(done, total):
        if not (small_disk / "other").exists():
            handle = os.open(small_disk / "other", os.O_CREAT | os.O_WRONLY)
            while _written(handle):
                pass
            os.close(handle)

    with pytest.raises(MergeError, match=r"cannot write '.*out': No space left on device$"):
        write(prepare(SUM, family.folders), small_disk / "out", progress=fill, threads=1)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_a_file_that_may_not_grow(family, tmp_path):
    """The limit on a file's size stands for every error of the system while writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = prepare(SUM, family.folders)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(MergeError, match=r"cannot write '.*out': File too large$"):
            write(plan, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_output_below_a_file(family, tmp_path):
    (tmp_path / "file").write_text("")
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", tmp_path / "file" / "out")
    assert code == 1
    assert errors.count("\n") == 1
