"""Whole recipes on two processes: `launch:` in the recipe, torchrun, a death, Ctrl-C, a mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.launch.same import needs_deepspeed

ROOT = Path(__file__).parent.parent.parent
RECIPE = """\
name: two
models: {{base: {root}/examples/models/tiny-en}}
data:
  target:
    generator: adapt.demo:statements
    arguments: {{languages: [uk], count: 120, seed: 13}}
    held_out: 10%
{launch}
stages:
  cpt:
    kind: train
    model: base
    mixture: {{target: 1.0}}
    method: {{kind: lora, r: 4}}
    tokens: {tokens}
    sequence_length: 64
    batch_size: 4
    evaluation_bytes: 1k
    evaluations: 1
    checkpoints: 10
"""


def write(folder: Path, launch: str = "launch: {processes: 2}", tokens: str = "5k") -> list[str]:
    (folder / "r.yaml").write_text(RECIPE.format(root=ROOT, launch=launch, tokens=tokens))
    return ["-m", "adapt", "run", "r.yaml"]


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, text=True, **pipes)


def finish(folder: Path, command: list[str], code: int = 0) -> tuple[str, str]:
    process = start(folder, command)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == code, errors[-3000:]
    return output, errors


def manifest(folder: Path) -> dict:
    return json.loads(next(folder.glob("runs/two/cpt/*/manifest.json")).read_text())


def after_a_checkpoint(folder: Path, process: subprocess.Popen) -> list[psutil.Process]:
    """Wait until the stage has a further checkpoint; returns the processes that train."""
    known, end = set(folder.glob("runs/two/cpt/*/checkpoints/checkpoint-*")), time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        if set(folder.glob("runs/two/cpt/*/checkpoints/checkpoint-*")) - known:
            return psutil.Process(process.pid).children()
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1][-3000:])


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=30)[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed, zero: 3", marks=needs_deepspeed)])
def test_a_death_and_ctrl_c_are_a_line_each_and_the_run_goes_on(tmp_path, strategy):
    command = write(tmp_path, f"launch: {{processes: 2, strategy: {strategy}}}", tokens="20k")
    first = start(tmp_path, command)
    workers = after_a_checkpoint(tmp_path, first)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    assert errors.startswith("stage 'cpt': process 1 of 2 was ended by SIGKILL")
    assert len(errors.splitlines()) == 1
    assert gone(workers)

    second = start(tmp_path, command)
    workers = after_a_checkpoint(tmp_path, second)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 130
    assert len(errors.splitlines()) == 1
    assert gone(workers)

    output, _ = finish(tmp_path, [*command, "--set", "launch.processes=1"])
    assert "going on from step" in output
    log = next(tmp_path.glob("runs/two/cpt/*/log.jsonl")).read_text().splitlines()
    steps = [event["step"] for event in map(json.loads, log) if event["event"] == "train"]
    assert steps == list(range(1, manifest(tmp_path)["metrics"]["steps"] + 1))


@pytest.mark.slow
def test_a_stage_has_processes_of_its_own(tmp_path):
    process = start(tmp_path, write(tmp_path, "launch: {strategy: fsdp2}", "20k"))
    assert not after_a_checkpoint(tmp_path, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    process = start(tmp_path, write(tmp_path, "", "20k\n    launch: {processes: 2}"))
    workers = after_a_checkpoint(tmp_path, process)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert gone(workers)


@pytest.mark.slow
def test_the_workers_end_with_a_killed_parent(tmp_path):
    process = start(tmp_path, write(tmp_path, tokens="50k"))
    workers = after_a_checkpoint(tmp_path, process)
    process.kill()
    process.communicate()
    assert gone(workers)


@pytest.mark.slow
def test_a_mistake_that_every_process_makes_is_one_line(tmp_path):
    _, errors = finish(tmp_path, [*write(tmp_path), "--set", "stages.cpt.sequence_length=4096"], code=1)
    assert errors.startswith("stage 'cpt': sequence_length is 4096, but the model 'base' has")
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_makes_what_the_recipe_and_one_process_make(tmp_path, strategy):
    folders = {name: tmp_path / name for name in ("alone", "launched", "torchrun")}
    for folder in folders.values():
        folder.mkdir()
    finish(folders["alone"], write(folders["alone"], ""))
    finish(folders["launched"], write(folders["launched"], f"launch: {{processes: 2, strategy: {strategy}}}"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output, _ = finish(
        folders["torchrun"], [*torchrun, *write(folders["torchrun"], f"launch: {{strategy: {strategy}}}")]
    )
    assert output.count("report: ") == 1
    found = {name: manifest(folder) for name, folder in folders.items()}
    assert len({one["key"] for one in found.values()}) == 1
    for one in found.values():
        assert one["metrics"]["tokens"] == found["alone"]["metrics"]["tokens"]
        ends = [item["metrics"]["target"]["target"]["end"] for item in (one, found["alone"])]
        assert ends[0] == pytest.approx(ends[1], rel=1e-5)
        assert one["metrics"]["trainable"] == found["alone"]["metrics"]["trainable"]
        assert "processes" not in {Path(file["path"]).parts[0] for file in one["files"]}
