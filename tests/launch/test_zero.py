"""DeepSpeed's ZeRO on two gloo processes: the weights of one process, and checkpoints that any number goes on from."""

from __future__ import annotations

import pytest

from adapt.launch import settings
from adapt.launch.settings import Launch
from tests.launch.same import assert_alike, assert_same, compare, needs_deepspeed
from tests.launch.worker import together, train

STAGES = ["deepspeed-2", "deepspeed-3"]
ATOL = 1e-5
"""Gradients are added up in another order than in one process, and Adam makes much of little ones."""


def test_deepspeed_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    assert list(Launch(strategy="deepspeed").conflicts()) == [
        ("strategy", "'deepspeed' needs the package deepspeed; pip install 'adapt[deepspeed]', or use fsdp2")
    ]
    monkeypatch.setattr(settings, "find_spec", lambda name: object())
    assert not list(Launch(strategy="deepspeed", zero=3).conflicts())


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("strategy", STAGES)
def test_two_processes_are_one_at_the_same_global_batch(base, tmp_path, strategy):
    methods = ["full", "half", "lora", "pissa", "rows", "norms", "slow", *(["dora"] if strategy == STAGES[0] else [])]
    compare(base, tmp_path, {method: (method, strategy) for method in methods}, ATOL)
    assert not [path for ending in ("pt", "bin", "pkl") for path in tmp_path.rglob(f"*.{ending}")]


@pytest.mark.slow
@needs_deepspeed
def test_stage_2_over_4_bits(base, tmp_path):
    together(base, tmp_path, "two:qlora:deepspeed-2:all")
    train(base, tmp_path / "one", "qlora")
    assert_alike(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("strategy", STAGES)
def test_logits_in_chunks_and_activations_computed_again_are_the_same(base, tmp_path, strategy):
    jobs = {f"{name}-{moment}": (name, moment) for name in ("full", "lora") for moment in ("chunks", "checkpointing")}
    together(base, tmp_path, *(f"{job}:{name}:{strategy}:{moment}" for job, (name, moment) in jobs.items()))
    for job, (name, moment) in jobs.items():
        train(base, tmp_path / f"alone-{job}", name, moment=moment)
        assert_same(tmp_path / job, tmp_path / f"alone-{job}", ATOL)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("strategy", STAGES)
def test_a_run_goes_on_in_another_number_of_processes_and_under_another_strategy(base, tmp_path, strategy):
    """Stopped after the checkpoint of step 4 in two processes and finished in one, the other way round, and between."""
    train(base, tmp_path / "straight", "full")
    train(base, tmp_path / "up", "full", moment="half")
    stopped = [f"{name}:full:{strategy}:half" for name in ("down", "same", "over")]
    together(base, tmp_path, *stopped, f"up:full:{strategy}:all", "back:full:fsdp2:half")
    train(base, tmp_path / "down", "full")
    together(base, tmp_path, f"same:full:{strategy}:all", "over:full:fsdp2:all", f"back:full:{strategy}:all")
    for name in ("up", "down", "same", "over", "back"):
        assert_same(tmp_path / name, tmp_path / "straight", ATOL)
