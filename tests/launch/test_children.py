"""Processes that fail, die or outlive their parent: one line each, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapt.errors import AdaptError
from adapt.launch import children
from adapt.launch.children import environment, run_children


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(children, "_GRACE", 0.5)


READ = "import json, os, sys, time; job = json.loads(sys.stdin.readline()); rank = int(os.environ['RANK'])\n"
REPORT = "os.write(int(sys.argv[1]), (json.dumps({}) + chr(10)).encode())\n"


def run(code: str, tmp_path, show=None, processes: int = 2):
    return run_children([sys.executable, "-c", READ + code], {"x": 5}, processes, tmp_path / "logs", show)


def report(text: str) -> str:
    return REPORT.format(text)


def test_the_first_one_reports_and_shows(tmp_path):
    lines = []
    code = "print('shown by', rank)\n" + report("{'metrics': {'x': job['x'], 'of': os.environ['WORLD_SIZE']}}")
    assert run(code, tmp_path, lines.append, processes=3) == {"x": 5, "of": "3"}
    time.sleep(0.1)
    assert lines == ["shown by 0"]


def test_a_plain_mistake_in_all_of_them_is_one_line(tmp_path):
    code = report("{'error': 'the disk is full', 'plain': True}") + "sys.exit(1)"
    with pytest.raises(AdaptError) as caught:
        run(code, tmp_path)
    assert str(caught.value) == "the disk is full"


def test_the_cause_is_told_and_not_what_it_did_to_the_others(tmp_path):
    code = (
        "if rank: os.kill(os.getpid(), 9)\n"
        + report("{'error': 'RuntimeError: Connection closed by peer', 'plain': False}")
        + "sys.exit(1)"
    )
    with pytest.raises(AdaptError) as caught:
        run(code, tmp_path)
    assert str(caught.value) == (
        "process 1 of 2 was ended by SIGKILL; SIGKILL often means that the memory was full; what was done is kept: "
        "run again to go on"
    )


def test_a_mistake_of_ours_names_the_file_with_the_traceback(tmp_path):
    code = "if rank == 0: time.sleep(60)\n" + report("{'error': 'KeyError: 3', 'plain': False}") + "raise KeyError(3)"
    with pytest.raises(AdaptError) as caught:
        run(code, tmp_path)
    log = tmp_path / "logs" / "rank-1.log"
    assert str(caught.value) == f"process 1 of 2: KeyError: 3; see '{log}'"
    assert "Traceback" in log.read_text()


def test_one_that_says_nothing_is_told_by_its_exit_code(tmp_path):
    with pytest.raises(AdaptError, match="process 0 of 2: it ended with exit code 7; see"):
        run("sys.exit(7)", tmp_path)


def test_none_is_left_after_one_has_failed(tmp_path):
    code = f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\nif rank: sys.exit(3)\ntime.sleep(60)"
    with pytest.raises(AdaptError, match="exit code 3"):
        run(code, tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0").read_text()), 0)


def test_torch_and_accelerate_know_a_child_by_its_variables():
    found = environment(1, 4, 29400)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_PORT"]) == ("1", "4", "1", "29400")


def test_a_worker_ends_with_its_parent(tmp_path):
    """The parent is killed while its worker waits; the worker sees the end of its input and ends as well."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading, time; "
        "from adapt.pipeline.worker import _end_with_parent; _end_with_parent()'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":  # dead, and nobody's child
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")
