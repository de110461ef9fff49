"""States on disk: complete or absent, exact, never unpickled; and going on from before an anneal."""

from __future__ import annotations

import random
import shutil

import numpy
import pytest
import torch
from safetensors.torch import load_file

from adapt.errors import AdaptError
from adapt.methods.full import Full
from adapt.methods.lora import Lora
from adapt.training import state
from adapt.training.callbacks import BEFORE_ANNEAL
from adapt.training.run import before_anneal
from adapt.training.schedules.infinite import Infinite
from tests.training.workshop import equal, make_run, weights


def draw():
    return random.random(), random.gauss(0, 1), numpy.random.rand(), numpy.random.randn(), torch.rand(3).tolist()


def test_generators_go_on_where_they_stood(tmp_path):
    draw()
    state.save_tensors(state.random_states(), tmp_path / "random.safetensors")
    first = draw()
    draw()
    state.load_random(tmp_path)
    assert draw() == first


def test_an_optimisers_state_comes_back_whole():
    parameter = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    parameter.grad = torch.randn(4, 4)
    optimizer.step()
    tensors, numbers = state.optimizer_parts(optimizer.state_dict())
    again = state.optimizer_state(tensors, numbers)
    assert again["param_groups"] == optimizer.state_dict()["param_groups"]
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(again["state"][0][name], value)


def write(folder, step):
    state.write_state(
        folder / f"checkpoint-{step}", {"w": torch.ones(3) * step}, {"state": {}, "param_groups": []}, {"step": step}
    )


def test_unfinished_and_damaged_states_are_removed_with_a_line(tmp_path):
    for step in (2, 4, 10):
        write(tmp_path, step)
    (tmp_path / ".checkpoint-12.partial").mkdir()
    damaged = tmp_path / "checkpoint-10" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    lines: list[str] = []
    assert state.newest_state(tmp_path, lines.append) == tmp_path / "checkpoint-4"
    assert [line.split(",")[0] for line in lines] == ["removed '.checkpoint-12.partial'", "removed 'checkpoint-10'"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_the_newest_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10):
        write(tmp_path, step)
    state.keep_newest(tmp_path, 2)
    assert [path.name for path in state.states_in(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_weights_that_do_not_fit_are_one_line(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(AdaptError, match="'v' is only on one side"):
        state.load_weights(tmp_path / "checkpoint-1", {"v": torch.nn.Parameter(torch.zeros(3))})
    with pytest.raises(AdaptError, match=r"has 'w' as \[3\], this stage trains it as \[4\]"):
        state.load_weights(tmp_path / "checkpoint-1", {"w": torch.nn.Parameter(torch.zeros(4))})


def test_a_failed_write_leaves_the_old_state(tmp_path):
    write(tmp_path, 1)

    def full(partial):
        raise OSError(28, "No space left on device")

    with pytest.raises(AdaptError, match="No space left on device; what was finished before is kept"):
        state.write_folder(tmp_path / "checkpoint-1", full)
    assert state.is_complete(tmp_path / "checkpoint-1")
    assert not list(tmp_path.glob(".*"))


INFINITE = Infinite(peak=5e-3, warmup=1, cooldown=2, anneal=2, constant=0.5, floor=0.1)


def test_training_unpickles_nothing(tmp_path, tiny_model_folder, monkeypatch):
    def refuse(*arguments, **others):
        raise AssertionError("something was pickled or unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    make_run(tiny_model_folder, tmp_path, Lora(r=2), steps=2, checkpoint_every=1).execute()
    make_run(tiny_model_folder, tmp_path, Lora(r=2), steps=2, checkpoint_every=1).execute()
    kinds = {path.suffix for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_a_stage_goes_on_from_before_the_anneal(tmp_path, tiny_model_folder):
    """With no new warm-up and the old moments: its first steps are those of a run whose constant phase is longer."""
    first = make_run(tiny_model_folder, tmp_path / "a", Full(), schedule=INFINITE, steps=8)
    first.execute()
    kept, updates = before_anneal(tmp_path / "a")
    assert (kept.name, updates) == (BEFORE_ANNEAL, 6)
    assert not equal(load_file(kept / "weights.safetensors"), weights(first))
    second = make_run(tiny_model_folder, tmp_path / "b", Full(), schedule=INFINITE, steps=6, offset=updates)
    second.execute(kept)
    rates = [event["learning_rate"] for event in second.log.read("train")]
    assert rates[:3] == pytest.approx([2.5e-3] * 3)
    assert rates[-1] < 1e-3
    assert before_anneal(tmp_path / "b")[1] == 10


def test_going_on_twice_is_going_on_once(tmp_path, tiny_model_folder):
    """Over the same rows, 4 + 4 updates on the constant phase are 8 updates, bit for bit."""
    from dataclasses import replace

    schedule = INFINITE.model_copy(update={"anneal": 0})
    straight = make_run(tiny_model_folder, tmp_path / "s", Full(), schedule=schedule, steps=8)
    straight.execute()
    first = make_run(tiny_model_folder, tmp_path / "a", Full(), schedule=schedule, steps=4)
    first.execute()
    kept, updates = before_anneal(tmp_path / "a")
    second = make_run(tiny_model_folder, tmp_path / "b", Full(), schedule=schedule, steps=4, offset=updates)
    rows = second.stream
    second = replace(second, stream=type("Later", (), {"__getitem__": lambda self, index: rows[index + 8]})())
    second.execute(kept)
    assert equal(weights(straight), weights(second))


def test_going_on_over_another_base_is_refused(tmp_path, tiny_model_folder):
    make_run(tiny_model_folder, tmp_path / "a", Lora(r=2), schedule=INFINITE, steps=6).execute()
    other = make_run(tiny_model_folder, tmp_path / "b", Lora(r=2), schedule=INFINITE, steps=6, offset=4)
    other.model.get_base_model().model.norm.weight.data += 1
    with pytest.raises(AdaptError, match="trained over other frozen weights"):
        other.execute(tmp_path / "a" / BEFORE_ANNEAL)


def test_a_stage_without_an_anneal_cannot_be_gone_on_from(tmp_path, tiny_model_folder):
    make_run(tiny_model_folder, tmp_path / "a", Lora(r=2), steps=2).execute()
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    with pytest.raises(AdaptError, match="keeps no state from before an anneal"):
        before_anneal(tmp_path / "a")
