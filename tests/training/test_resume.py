"""A run that is killed with SIGKILL and started again ends in the weights of a straight run, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent.parent
KINDS = [("full", "fp32"), ("lora", "fp32"), ("qlora", "fp32"), ("mixture", "fp32")]
SLOW = [("full", "bf16")]
MOMENTS = {("full", "fp32"): ("start", "writing", "later"), ("lora", "fp32"): ("writing", "later")}


@pytest.fixture(scope="module")
def run_all(tmp_path_factory, tiny_model_folder):
    """A function that runs these kinds, straight and killed, each in a folder of its name; returns where they lie."""

    def run(kinds: list[tuple[str, str]]) -> Path:
        folder = tmp_path_factory.mktemp("killed")
        jobs = [
            f"{method}-{precision}-{moment}:{method}:{precision}:{moment}"
            for method, precision in kinds
            for moment in ("none", *moments_of(method, precision))
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.training.worker", str(tiny_model_folder), str(folder), *jobs]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return run


@pytest.fixture(scope="module")
def runs(run_all):
    return run_all(KINDS)


def moments_of(method: str, precision: str) -> tuple[str, ...]:
    return MOMENTS.get((method, precision), ("later",))


def assert_same(runs: Path, method: str, precision: str) -> None:
    straight = load_file(runs / f"{method}-{precision}-none" / "weights.safetensors")
    for moment in moments_of(method, precision):
        again = load_file(runs / f"{method}-{precision}-{moment}" / "weights.safetensors")
        assert straight.keys() == again.keys()
        for name, tensor in straight.items():
            assert tensor.numpy().tobytes() == again[name].numpy().tobytes(), (moment, name)


@pytest.mark.parametrize(("method", "precision"), KINDS)
def test_killed_and_resumed_is_the_straight_run_bit_for_bit(runs, method, precision):
    assert_same(runs, method, precision)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "precision"), SLOW)
def test_other_kinds_are_the_straight_run_bit_for_bit(run_all, method, precision):
    assert_same(run_all([(method, precision)]), method, precision)


@pytest.mark.parametrize("moment", ["start", "writing", "later"])
def test_the_log_of_a_killed_run_has_every_step_once(runs, moment):
    lines = (runs / f"full-fp32-{moment}" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["step"] for event in events if event["event"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [0, 6]
    assert events[-1]["event"] == "finish"


def test_only_what_trains_is_in_a_checkpoint(runs):
    tensors = load_file(runs / "qlora-fp32-none" / "checkpoints" / "checkpoint-6" / "weights.safetensors")
    assert tensors
    assert all(".lora_" in name for name in tensors)
