"""Freezing and thawing within a run: moments, checkpoints, kills, runs that go on, lengths."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from adapt.errors import AdaptError
from adapt.methods.half import Every, Half
from adapt.methods.lisa import Lisa
from adapt.training.optimizer import Optimizer
from adapt.training.rules import Snapshot, learning
from adapt.training.schedules.infinite import Infinite
from tests.training.workshop import equal, make_run, weights

EVERY_TWO = Half(reselect=Every(every=2), train_embeddings="frozen")
KEPT = {"checkpoint_every": 1, "keep_checkpoints": 20}


def whole(run) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learning(run.model).items()}


def checkpoint(folder, step) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    place = folder / "checkpoints" / f"checkpoint-{step}"
    return load_file(place / "weights.safetensors"), load_file(place / "optimizer.safetensors")


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_what_freezes_stands_still_without_moments_and_what_thaws_begins_without(kind, tmp_path, tiny_model_folder):
    optimizer = Optimizer(kind=kind, weight_decay=0.1)
    run = make_run(tiny_model_folder, tmp_path, EVERY_TWO, optimizer=optimizer, steps=6, **KEPT)
    numbers = run.execute()["selection"]
    selection = run.model.adapt_selection
    assert [turn["update"] for turn in numbers["turns"]] == [0, 2, 4]
    assert set(numbers["trained"]) == set().union(*(selection.names(turn) for turn in range(3)))
    for turn, (start, end) in enumerate([(2, 4), (4, 6)], start=1):
        before, after = checkpoint(tmp_path, start)[0], checkpoint(tmp_path, end)[0]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == selection.names(turn)
    kept, new = selection.names(0) & selection.names(1), selection.names(1) - selection.names(0)
    assert kept
    assert new
    order = [id(p) for group in run.companions[0].trainer.optimizer.param_groups for p in group["params"]]
    places = {name: str(order.index(id(p))) for name, p in learning(run.model).items()}
    at_switch, next_step = checkpoint(tmp_path, 2)[1], checkpoint(tmp_path, 3)[1]
    assert {path.split("/")[0] for path in at_switch} == {places[name] for name in kept}
    assert {path.split("/")[0] for path in next_step} == {places[name] for name in kept | new}
    if kind == "adamw":
        counts = {name: int(next_step[f"{places[name]}/step"]) for name in kept | new}
        assert {counts[name] for name in kept} == {3}
        assert {counts[name] for name in new} == {1}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (EVERY_TWO, {"accumulation": 2, "gradient_checkpointing": True}),
        (Half(reselect=Every(every=2)), {"optimizer": Optimizer(kind="adamw_8bit")}),
        (Lisa(layers=1, every=2), {}),
    ],
    ids=["half", "half 8-bit", "lisa"],
)
def test_going_on_is_the_straight_run_bit_for_bit(method, changes, tmp_path, tiny_model_folder):
    """From a checkpoint at the border of two turns, and from one within a turn."""
    settings = {"steps": 5, **KEPT, **changes}
    straight = make_run(tiny_model_folder, tmp_path / "straight", method, **settings)
    expected = straight.execute()
    for stopped in (2, 3):
        here = tmp_path / f"resumed-{stopped}"
        name = f"checkpoints/checkpoint-{stopped}"
        shutil.copytree(tmp_path / "straight" / name, here / name)
        (here / "log.jsonl").write_text((tmp_path / "straight" / "log.jsonl").read_text())
        resumed = make_run(tiny_model_folder, here, method, **settings)
        found = resumed.execute()
        assert equal(whole(straight), whole(resumed))
        assert found["selection"] == expected["selection"]
        assert found["changed_tensors"] == expected["changed_tensors"]


def test_accumulation_and_turns_give_the_same_weights(tmp_path, tiny_model_folder):
    finals = []
    for batch, accumulation in ((4, 1), (1, 4)):
        changes = {"batch_size": batch, "accumulation": accumulation, "steps": 4}
        run = make_run(tiny_model_folder, tmp_path / str(batch), EVERY_TWO, **changes)
        run.execute()
        finals.append(whole(run))
    assert all(torch.allclose(finals[0][name], finals[1][name], atol=2e-5) for name in finals[0])


def test_a_run_goes_on_from_anothers_anneal_with_the_same_turns(tmp_path, tiny_model_folder):
    schedule = Infinite(peak=5e-3, warmup=1, cooldown=2, anneal=2)
    for name, method in (("stage", Half()), ("turns", EVERY_TWO)):
        first = make_run(tiny_model_folder, tmp_path / name, method, steps=6, schedule=schedule)
        first.execute()
        second = make_run(tiny_model_folder, tmp_path / f"{name}2", method, steps=4, schedule=schedule, offset=4)
        told = second.execute(tmp_path / name / "before_anneal")["selection"]
        if name == "stage":
            assert set(weights(first)) == set(weights(second))
        else:
            assert [turn["update"] for turn in told["turns"]] == [0, 2, 4, 6]


def test_one_layer_at_a_time(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lisa(layers=1, every=1), steps=6, **KEPT)
    run.execute()
    layers = []
    for step in range(1, 6):
        before, after = checkpoint(tmp_path, step)[0], checkpoint(tmp_path, step + 1)[0]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {"model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"} <= moved
        layers.append({int(name.split(".")[2]) for name in moved if ".layers." in name})
    assert all(len(found) == 1 for found in layers)
    assert set().union(*layers) == {0, 1}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Half(reselect=Every(every=6)), r"draws anew after every 6 updates, but the run has only 6; train longer"),
        (Lisa(layers=1), r"draws anew after every 20 updates, but the run has only 6"),
    ],
)
def test_a_run_too_short_for_a_second_draw_is_one_line(method, message, tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, method)
    with pytest.raises(AdaptError, match=message):
        run.execute()


def test_several_devices_cannot_take_turns(tmp_path, tiny_model_folder, monkeypatch):
    from accelerate import Accelerator

    run = make_run(tiny_model_folder, tmp_path, EVERY_TWO)
    turns = run.companions[0]
    turns.prepare(run)
    run.before = Snapshot.of(run.model, run.rows)
    turns.trainer = run._trainer(None, None, 0)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(AdaptError, match=r"works on one device only; draw once for the stage"):
        turns.on_train_begin(None, turns.trainer.state, None)


def test_the_last_turn_is_never_shorter_than_half_a_turn(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Half(reselect=Every(every=4)), steps=9)
    assert [turn["update"] for turn in run.execute()["selection"]["turns"]] == [0, 4]
