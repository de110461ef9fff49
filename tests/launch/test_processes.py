"""Two processes end in the weights of one at the same global batch; a run goes on in another number of processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.worker import together, train


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_model_folder) -> Path:
    folder = tmp_path_factory.mktemp("models") / "grown"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "adapt_vocabulary.json").write_text(json.dumps({"base_size": 380, "new_ids": [380, 381, 382, 383]}))
    return folder


def events(folder: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def assert_same(found: Path, expected: Path) -> None:
    """The weights and the course of the run, to float32's accuracy."""
    left, right = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert left.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=2e-6, msg=name)
    courses = [events(folder, "train") for folder in (found, expected)]
    assert [line["step"] for line in courses[0]] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(*courses, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    measured = [[line["general"] for line in events(folder, "evaluation")] for folder in (found, expected)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def compare(base: Path, folder: Path, jobs: dict[str, tuple[str, str]]) -> None:
    together(base, folder, *(f"{name}:{method}:{strategy}:all" for name, (method, strategy) in jobs.items()))
    for method in sorted({method for method, _ in jobs.values()}):
        train(base, folder / f"alone-{method}", method)
    for name, (method, _) in jobs.items():
        assert_same(folder / name, folder / f"alone-{method}")


@pytest.mark.slow
def test_two_processes_are_one_at_the_same_global_batch(base, tmp_path):
    compare(base, tmp_path, {"a": ("full", "ddp"), "b": ("lora", "fsdp2")})
    state = json.loads((tmp_path / "a/checkpoints/checkpoint-6/state.json").read_text())
    assert state["processes"] == 2
    assert {"random.safetensors", "random-1.safetensors", "weights.safetensors"} <= state["files"].keys()
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.distcp"))


@pytest.mark.slow
def test_every_method_that_may_be_split_is_the_same_in_parts(base, tmp_path):
    methods = ("full", "full_rows", "half", "rows", "norms", "dora", "pissa", "slow", "qlora")
    compare(base, tmp_path, {method: (method, "fsdp2") for method in methods})


@pytest.mark.slow
def test_every_method_of_one_turn_is_the_same_under_ddp(base, tmp_path):
    compare(base, tmp_path, {method: (method, "ddp") for method in ("full_rows", "half", "lora", "rows", "qlora")})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_logits_in_chunks_are_the_same(base, tmp_path, strategy):
    together(base, tmp_path, f"full:full:{strategy}:chunks", f"lora:lora:{strategy}:chunks")
    for name in ("full", "lora"):
        train(base, tmp_path / f"alone-{name}", name, moment="chunks")
        assert_same(tmp_path / name, tmp_path / f"alone-{name}")


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
