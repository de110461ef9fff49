"""Two processes end in the weights of one at the same global batch; a run goes on in another number of processes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.same import assert_alike, assert_same, compare
from tests.launch.worker import together, train


@pytest.mark.slow
def test_two_processes_are_one_at_the_same_global_batch(base, tmp_path):
    compare(base, tmp_path, {"a": ("full", "ddp"), "b": ("lora", "fsdp2")})
    state = json.loads((tmp_path / "a/checkpoints/checkpoint-6/state.json").read_text())
    assert state["processes"] == 2
    assert {"random.safetensors", "random-1.safetensors", "weights.safetensors"} <= state["files"].keys()
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.distcp"))


@pytest.mark.slow
def test_every_method_that_may_be_split_is_the_same_in_parts(base, tmp_path):
    methods = ("full", "full_rows", "half", "rows", "norms", "dora", "pissa", "slow", "pruned", "loram", "vera")
    compare(base, tmp_path, {method: (method, "fsdp2") for method in methods})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_four_bits_are_alike(base, tmp_path, strategy):
    methods = ("qlora", "half_4_bits", "loram_4_bits")
    together(base, tmp_path, *(f"{method}:{method}:{strategy}:all" for method in methods))
    for method in methods:
        train(base, tmp_path / f"alone-{method}", method)
        assert_alike(tmp_path / method, tmp_path / f"alone-{method}")


@pytest.mark.slow
def test_every_method_of_one_turn_is_the_same_under_ddp(base, tmp_path):
    compare(base, tmp_path, {method: (method, "ddp") for method in ("full_rows", "half", "lora", "rows")})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_logits_in_chunks_are_the_same(base, tmp_path, strategy):
    together(base, tmp_path, f"full:full:{strategy}:chunks", f"lora:lora:{strategy}:chunks")
    for name in ("full", "lora"):
        train(base, tmp_path / f"alone-{name}", name, moment="chunks")
        assert_same(tmp_path / name, tmp_path / f"alone-{name}")


@pytest.mark.slow
def test_pairs_are_the_same_in_parts(base, tmp_path):
    """Also where a run stops in two processes and ends in one, with the reference that the two have measured."""
    compare(base, tmp_path, {method: (method, "fsdp2") for method in ("dpo_half", "dpo_lora", "orpo")})
    together(base, tmp_path, "down:dpo_half:fsdp2:half")
    train(base, tmp_path / "down", "dpo_half")
    assert_same(tmp_path / "down", tmp_path / "alone-dpo_half")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_activations_computed_again_are_the_same(base, tmp_path, strategy):
    methods = ("full", "half", "lora", "dpo_half")
    together(base, tmp_path, *(f"{method}:{method}:{strategy}:checkpointing" for method in methods))
    for method in methods:
        train(base, tmp_path / f"alone-{method}", method)
        assert_same(tmp_path / method, tmp_path / f"alone-{method}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_goes_on_in_another_number_of_processes(base, tmp_path, strategy):
    """Stopped after the checkpoint of step 4 in two processes and finished in one, and the other way round."""
    train(base, tmp_path / "straight", "lora")
    train(base, tmp_path / "up", "lora", moment="half")
    together(base, tmp_path, f"down:lora:{strategy}:half", f"up:lora:{strategy}:all", f"same:lora:{strategy}:half")
    assert not (tmp_path / "down/weights.safetensors").exists()
    train(base, tmp_path / "down", "lora")
    together(base, tmp_path, f"same:lora:{strategy}:all")
    for name in ("up", "down", "same"):
        assert_same(tmp_path / name, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_dropout_differs_between_processes_and_goes_on_bit_for_bit(base, tmp_path, strategy):
    job = f"dropout:{strategy}"
    together(base, tmp_path, f"straight:{job}:all", f"again:{job}:half", f"again:{job}:all")
    left, right = (load_file(tmp_path / name / "weights.safetensors") for name in ("straight", "again"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    states = [
        load_file(tmp_path / f"straight/checkpoints/checkpoint-6/random{rank}.safetensors") for rank in ("", "-1")
    ]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
