"""SIGKILL at real moments, and two runs at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from toys import make_graph, quiet, three_stages

from adapt.errors import AdaptError
from adapt.pipeline import read_manifest, run
from adapt.pipeline.hashes import HashCache
from adapt.pipeline.lock import RunLock
from adapt.pipeline.manifest import verify

TOYS = Path(__file__).parent / "toys.py"


def wait_for(pattern: str, folder: Path, seconds: float = 30) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := next(iter(folder.glob(pattern)), None):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{pattern} never appeared below {folder}")


@contextmanager
def running(base: Path, steps: int, pause: float):
    """The three stages in a process of their own, killed at the end of the block."""
    process = subprocess.Popen([sys.executable, str(TOYS), str(base), str(steps), str(pause)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(base, tmp_path_factory):
    with running(base, steps=4, pause=0.2):
        wait_for("runs/toy/stepped/*.partial/step-1", base)
    display, text = quiet()
    outcome = run(make_graph(base, three_stages(steps=4)), display)
    assert {name: result.state for name, result in outcome.stages.items()} == {
        "counted": "kept",
        "stepped": "done",
        "scores": "done",
    }
    assert "unfinished; goes on with what is there" in text.getvalue()
    folder = outcome.stages["stepped"].folder
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [0, 1, 2, 3], "no step was done twice"
    assert [event["resumed"] for event in events if event["event"] == "session"] == [False, True]
    assert len(outcome.stages["stepped"].manifest["times"]["sessions"]) == 2

    straight = tmp_path_factory.mktemp("straight")
    (straight / "corpus.txt").write_text("one two three")
    other = run(make_graph(straight, three_stages(steps=4)), display)
    assert other.stages["stepped"].manifest["outcome"] == outcome.stages["stepped"].manifest["outcome"]


def test_two_runs_of_one_recipe_at_once(base):
    display, _ = quiet()
    with running(base, steps=50, pause=1.0) as process:
        wait_for("runs/toy/stepped/*.partial/started.json", base)
        with pytest.raises(AdaptError) as caught:
            run(make_graph(base, three_stages()), display)
        line = str(caught.value)
        assert line.startswith(f"recipe 'toy' is being run by process {process.pid} since 20")
        assert line.endswith("; wait for it or stop it")
        run(make_graph(base, three_stages(), recipe="other"), display, until="counted")
        run(make_graph(base, three_stages()), display, dry_run=True)
    run(make_graph(base, three_stages()), display)


def test_a_child_that_outlives_a_killed_run_does_not_hold_its_lock(tmp_path):
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom adapt.pipeline.lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child: Path(sys.argv[1], 'child').write_text(str(child))\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    child = None
    try:
        path = wait_for("child", tmp_path)
        time.sleep(0.05)
        child = int(path.read_text())
        with pytest.raises(AdaptError, match=f"process {process.pid}"), RunLock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)
        with RunLock(tmp_path):
            pass
    finally:
        process.kill()
        if child:
            os.kill(child, signal.SIGKILL)


FILE_EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "open"}


def killed_at(event: int, folder: Path, work) -> bool:
    """Do `work` in a fork that kills itself with SIGKILL right before its `event`-th operation on a file in `folder`.

    Returns False when the work ended before that.
    """
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def hook(name: str, arguments: tuple) -> None:
                nonlocal count
                if name in FILE_EVENTS and str(folder) in str(arguments[0]):
                    count += 1
                    if count == event:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, state = os.waitpid(child, 0)
    assert os.WIFSIGNALED(state) or os.WEXITSTATUS(state) == 0
    return os.WIFSIGNALED(state)


@pytest.fixture
def quick_disk(tmp_path_factory):
    """A folder in memory where there is one: the bench below syncs thousands of files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("disk")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "force",
    [pytest.param((), id="first run"), pytest.param(("stepped",), id="made again", marks=pytest.mark.slow)],
)
def test_sigkill_at_any_moment_leaves_no_folder_that_only_looks_finished(base, quick_disk, force):
    """Every file operation of a stage, its finishing and its replacing is taken once as the moment of death."""
    display, _ = quiet()
    stages = three_stages(steps=2)
    del stages["scores"]
    before = make_graph(base, stages, runs=quick_disk / "before")
    run(before, display, until=None if force else "counted")
    expected = (
        run(make_graph(base, stages, runs=quick_disk / "straight"), display).stages["stepped"].manifest["outcome"]
    )
    kills = 0
    while True:
        graph = make_graph(base, stages, runs=quick_disk / f"runs-{kills}")
        shutil.copytree(before.runs, graph.runs)
        died = killed_at(kills + 1, graph.folder, lambda graph=graph: run(graph, display, force=force))
        for folder in graph.folder.glob("*/*"):
            if not folder.suffix:
                verify(folder, read_manifest(folder), HashCache(base / "none"))
        outcome = run(graph, display)
        assert outcome.stages["stepped"].manifest["outcome"] == expected
        rest = [path for path in graph.folder.glob("*/*") if path.suffix]
        assert not rest, f"killed at {kills + 1}: {rest} are left over"
        shutil.rmtree(graph.runs)
        if not died:
            break
        kills += 1
    assert kills > 20
