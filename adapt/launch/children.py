"""Starts the processes of one stage on this machine, watches them, and tells in one line why they ended early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from adapt.errors import AdaptError

_GRACE = 3.0
"""Seconds in which the others may say what they saw after one process has ended, so that the cause is told and not a
consequence (a broken connection)."""
_POLL = 0.05


@dataclass
class Child:
    """One process, the pipe on which it reports (one line of JSON), and what it has said there."""

    rank: int
    process: subprocess.Popen[bytes]
    reports: IO[str]
    report: dict[str, Any] = field(default_factory=dict)
    ended: float = 0.0
    stopped: bool = False

    def listen(self) -> None:
        """Read the report when the process has closed its end."""
        line = self.reports.readline()
        self.report = json.loads(line) if line.strip() else {}

    @property
    def code(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self.process.poll()


def run_children(
    command: Sequence[str], job: Mapping[str, Any], processes: int, logs: Path, show: Callable[[str], None] | None
) -> dict[str, Any]:
    """Run `command` in `processes` processes and return what the first one reports under `metrics`.

    Each gets `job` as a line of JSON on its standard input, which stays open for as long as this process lives, the
    number of a descriptor for its report as last argument, and torch's variables (RANK, WORLD_SIZE, ...). What it
    writes to standard error goes to `logs`; the first one's output goes to `show`, or to the terminal for None. Raises
    AdaptError for the failure of any; then, and at Ctrl-C, all are ended.
    """
    from torch.distributed import TCPStore

    store = TCPStore(
        "127.0.0.1", 0, processes + 1, is_master=True, timeout=timedelta(minutes=10), wait_for_workers=False
    )
    logs.mkdir(parents=True, exist_ok=True)
    children: list[Child] = []
    try:
        for rank in range(processes):
            children.append(_start(command, job, rank, processes, store.port, logs, show))
        _watch(children)
        return _outcome(children, logs)
    finally:
        _stop(children)
        del store


def _start(
    command: Sequence[str],
    job: Mapping[str, Any],
    rank: int,
    processes: int,
    port: int,
    logs: Path,
    show: Callable[[str], None] | None,
) -> Child:
    reading, writing = os.pipe()
    output = subprocess.DEVNULL if rank else (None if show is None else subprocess.PIPE)
    with (logs / f"rank-{rank}.log").open("ab") as errors:
        process = subprocess.Popen(
            [*command, str(writing)],
            env=environment(rank, processes, port),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            pass_fds=(writing,),
            start_new_session=True,  # Ctrl-C is for this process alone, which then ends the others
        )
    os.close(writing)
    child = Child(rank, process, os.fdopen(reading, encoding="utf-8"))
    threading.Thread(target=child.listen, daemon=True).start()
    if process.stdout is not None and show is not None:
        threading.Thread(target=_forward, args=(process.stdout, show), daemon=True).start()
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:  # it is dead already, and `_watch` will say so
        pass
    return child


def environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """This process's variables with those by which torch and accelerate know a process of several."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    paths = [path for path in (os.getcwd(), os.environ.get("PYTHONPATH")) if path]
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _forward(stream: IO[bytes], show: Callable[[str], None]) -> None:
    for line in stream:
        show(line.decode("utf-8", "replace").rstrip("\n"))


def _watch(children: Sequence[Child]) -> None:
    """Wait until all have ended well, or until one has not and the others have had their time to say why."""
    failed_at = None
    while any(child.code is None for child in children):
        time.sleep(_POLL)
        for child in children:
            if child.code is not None and not child.ended:
                child.ended = time.monotonic()
                if child.code and failed_at is None:
                    failed_at = child.ended
        if failed_at is not None and time.monotonic() - failed_at > _GRACE:
            return


def _stop(children: Sequence[Child]) -> None:
    """End what still runs: asked first (a display is put in order), then by force."""
    running = [child for child in children if child.code is None]
    for child in running:
        child.stopped = True
        child.process.send_signal(signal.SIGINT)
    end = time.monotonic() + _GRACE
    for child in running:
        try:
            child.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
    for child in children:
        child.process.stdin.close()


def _outcome(children: Sequence[Child], logs: Path) -> dict[str, Any]:
    time.sleep(_POLL)  # for the last reports to be read
    failed = sorted((child for child in children if child.code), key=lambda child: child.ended)
    if not failed:
        return children[0].report["metrics"]
    raise _cause(failed, len(children), logs)


def _cause(failed: Sequence[Child], count: int, logs: Path) -> AdaptError:
    """The one line for several ends: a death by a signal first, then a plain mistake, then whatever came first."""
    killed = next((child for child in failed if (child.code or 0) < 0), None)
    if killed is not None:
        name = signal.Signals(-killed.code).name
        why = "; SIGKILL often means that the memory was full" if name == "SIGKILL" else ""
        return AdaptError(
            f"process {killed.rank} of {count} was ended by {name}{why}; what was done is kept: run again to go on"
        )
    plain = [child for child in failed if child.report.get("plain")]
    first = (plain or failed)[0]
    message = first.report.get("error") or f"it ended with exit code {first.code}"
    if plain:
        return AdaptError(message)
    return AdaptError(f"process {first.rank} of {count}: {message}; see '{logs / f'rank-{first.rank}.log'}'")


def python(module: str) -> list[str]:
    """The command that runs a module in another process of this Python."""
    return [sys.executable, "-m", module]
