"""Preference objectives: their formulas, their reference, accumulation, methods, resuming."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn.functional import logsigmoid

from adapt.methods.full import Full
from adapt.methods.half import Half
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from adapt.methods.rows_only import RowsOnly
from adapt.training.companion import Companion
from adapt.training.objectives.dpo import Dpo
from adapt.training.objectives.orpo import Orpo
from adapt.training.precision import Precision
from adapt.training.preference import log_probs
from adapt.training.preference.reference import measure_pairs
from tests.training.pair_workshop import alone, pair_run, shaken, trainer_of
from tests.training.workshop import equal, weights

BETA = 0.3


def dpo_terms(run, trainer):
    """For each pair of the first batch the log-ratios of both answers, from single sequences."""
    terms = []
    for row in (run.stream[index] for index in range(run.plan.batch_size)):
        policy = [alone(run.model, row[f"{side}_ids"], row[f"{side}_mask"]).sum() for side in ("chosen", "rejected")]
        terms.append(torch.stack(policy) - trainer.reference.table[row["number"]])
    return torch.stack(terms).unbind(1)


FORMULAS = {
    "sigmoid": lambda w, r: -logsigmoid(BETA * (w - r)),
    "hinge": lambda w, r: (1 - BETA * (w - r)).relu(),
    "robust": lambda w, r: (-0.8 * logsigmoid(BETA * (w - r)) + 0.2 * logsigmoid(-BETA * (w - r))) / 0.6,
    "nca_pair": lambda w, r: -logsigmoid(BETA * w) - 0.5 * logsigmoid(-BETA * w) - 0.5 * logsigmoid(-BETA * r),
    "apo_zero": lambda w, r: 1 - torch.sigmoid(BETA * w) + torch.sigmoid(BETA * r),
    "sppo_hard": lambda w, r: (w - 0.5 / BETA) ** 2 + (r + 0.5 / BETA) ** 2,
}


@pytest.mark.parametrize("loss", FORMULAS)
def test_dpo_is_its_formula_on_single_sequences(loss, tmp_path, tiny_model_folder):
    objective = Dpo(beta=BETA, loss=loss, label_smoothing=0.2 if loss == "robust" else 0)
    run = pair_run(tiny_model_folder, tmp_path, Lora(r=2), objective, batch_size=3)
    trainer = trainer_of(run)
    shaken(run.model)
    batch = trainer.data_collator([{"index": index} for index in range(3)])
    with torch.no_grad():
        expected = FORMULAS[loss](*dpo_terms(run, trainer)).mean()
        assert float(trainer.compute_loss(run.model, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_the_reference_is_the_model_with_its_adapter_off(tmp_path, tiny_model_folder):
    run = pair_run(tiny_model_folder, tmp_path, Lora(r=2), Dpo(), batch_size=4)
    trainer = trainer_of(run)
    shaken(run.model)
    rows = [run.stream[index] for index in range(4)]
    with run.model.disable_adapter():
        off = measure_pairs(run.model, rows, 4, run.collate, run.plan.precision)
    torch.testing.assert_close(off, trainer.reference.table[[row["number"] for row in rows]])
    assert list(run.model.peft_config) == ["default"]
    assert trainer.ref_model is None


def test_orpo_is_its_formula_on_single_sequences(tmp_path, tiny_model_folder):
    run = pair_run(tiny_model_folder, tmp_path, Full(), Orpo(beta=BETA), batch_size=3)
    trainer = trainer_of(run)
    batch = trainer.data_collator([{"index": index} for index in range(3)])
    trainer.current_gradient_accumulation_steps = 1
    trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    sums, odds = [], []
    for row in (run.stream[index] for index in range(3)):
        sides = ("chosen", "rejected")
        chosen, rejected = (alone(run.model, row[f"{side}_ids"], row[f"{side}_mask"]).detach() for side in sides)
        sums.append(chosen)
        p, q = chosen.mean().exp(), rejected.mean().exp()
        odds.append(torch.log(p / (1 - p)) - torch.log(q / (1 - q)))
    expected = -torch.cat(sums).mean() - BETA * logsigmoid(torch.stack(odds)).mean()
    assert trainer.compute_loss(run.model, batch).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("method", [Full(), Lora(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("objective", [Dpo(), Orpo()], ids=["dpo", "orpo"])
def test_checkpointing_the_activations_changes_nothing(method, objective, tmp_path, tiny_model_folder):
    ends = []
    for saving in (False, True):
        run = pair_run(
            tiny_model_folder, tmp_path / str(saving), method, objective, gradient_checkpointing=saving, steps=2
        )
        run.execute()
        ends.append(weights(run))
    assert equal(*ends)


def test_in_bf16_a_model_is_its_own_reference_before_the_first_step(tmp_path, tiny_model_folder):
    precision = Precision(torch.device("cpu"), True)
    run = pair_run(tiny_model_folder, tmp_path, Lora(r=2), Dpo(), precision=precision, steps=1)
    run.execute()
    (event,) = run.log.read("train")
    assert abs(event["reward_margin"]) < 2e-3
    assert event["loss"] == pytest.approx(0.6931, abs=1e-3)


class Gradients(Companion):
    """Keeps the gradients of the first update."""

    name = "gradients"

    def on_pre_optimizer_step(self, args, state, control, **others):
        if state.global_step == 0:
            parameters = self.trainer.model.named_parameters()
            self.found = {name: value.grad.clone() for name, value in parameters if value.grad is not None}


@pytest.mark.parametrize("objective", [Dpo(), Dpo(loss="ipo"), Orpo()], ids=["dpo", "ipo", "orpo"])
def test_one_batch_of_four_is_four_of_one(objective, tmp_path, tiny_model_folder):
    found = []
    for size, parts in ((4, 1), (1, 4)):
        changes = {"batch_size": size, "accumulation": parts, "steps": 1, "checkpoint_every": 9}
        run = pair_run(tiny_model_folder, tmp_path / str(size), Full(), objective, **changes)
        keeper = Gradients()
        run.companions = (keeper,)
        run.execute()
        found.append((keeper.found, run.log.read("train")[0]["loss"]))
    (one, loss), (four, other) = found
    assert loss == pytest.approx(other, rel=1e-5)
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, four[name], rtol=1e-3, atol=2e-6)


METHODS = {
    "full": Full(),
    "half": Half(),
    "lora": Lora(r=4, dropout=0.1),
    "pissa": Lora(r=4, init="pissa"),
    "qlora": Qlora(r=4),
    "rows": RowsOnly(train_embeddings="chat_rows"),
}
RUNS = [(name, Dpo()) for name in METHODS] + [(name, Orpo()) for name in ("full", "qlora", "rows")]


@pytest.mark.parametrize(("name", "objective"), RUNS, ids=[f"{name}-{objective.kind}" for name, objective in RUNS])
def test_every_method_learns_to_prefer_and_changes_only_what_it_declares(name, objective, tmp_path, tiny_model_folder):
    run = pair_run(tiny_model_folder, tmp_path, METHODS[name], objective, held_out=True, batch_size=4)
    numbers = run.execute()
    events = run.log.read("preference")
    assert [event["step"] for event in events] == [0, 3, 6]
    if objective.kind == "dpo":
        assert events[0]["margin"] == 0
        assert run.log.read("train")[0]["loss"] == pytest.approx(0.6931, abs=0.03 if name == "lora" else 1e-4)
    assert events[-1]["margin"] > events[0]["margin"]
    assert numbers["preference"]["margin"] == events[-1]["margin"]
    assert numbers["trained_tokens"] < numbers["tokens"]
    assert {"reward_margin", "reward_accuracy"} <= run.log.read("train")[-1].keys()
    assert numbers["general"]["start"] != numbers["general"]["end"]


@pytest.mark.parametrize(
    ("method", "objective"), [(METHODS["lora"], Dpo()), (METHODS["full"], Orpo())], ids=["dpo", "orpo"]
)
def test_resumed_is_the_straight_run_bit_for_bit(method, objective, tmp_path, tiny_model_folder):
    changes = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9, "accumulation": 2}
    run = pair_run(tiny_model_folder, tmp_path / "a", method, objective, **changes)
    run.execute()
    for name in ("checkpoint-2", *(["reference"] if objective.kind == "dpo" else [])):
        shutil.copytree(tmp_path / "a" / "checkpoints" / name, tmp_path / "b" / "checkpoints" / name)
    again = pair_run(tiny_model_folder, tmp_path / "b", method, objective, **changes)
    again.execute()
    assert equal(weights(run), weights(again))
    said = again.display.console.file.getvalue()
    assert "going on from step 2" in said
    assert "reference log-probabilities" not in said


def test_a_reference_of_another_start_is_measured_again(tmp_path, tiny_model_folder):
    first = trainer_of(pair_run(tiny_model_folder, tmp_path, Full(), Dpo(), batch_size=4))
    other = pair_run(tiny_model_folder, tmp_path, Full(), Dpo(), batch_size=4)
    shaken(other.model)
    assert not torch.equal(first.reference.table, trainer_of(other).reference.table)


@pytest.mark.parametrize("chunk", [2**25, 700])
def test_token_numbers_over_two_tables_are_those_of_all_logits(chunk, tmp_path, tiny_model_folder, monkeypatch):
    """TRL's own multiplies by the frozen table and would neither see nor train the rows beside it."""
    monkeypatch.setattr(log_probs, "CHUNK", chunk)
    run = pair_run(tiny_model_folder, tmp_path, METHODS["rows"], Dpo(), batch_size=3)
    trainer_of(run)
    shaken(run.model, 0.3)
    rows = [run.stream[index] for index in range(3)]
    sums = log_probs.sequence_log_probs(run.model, run.collate(rows))
    expected = torch.stack(
        [
            alone(run.model, row[f"{side}_ids"], row[f"{side}_mask"]).sum()
            for side in ("chosen", "rejected")
            for row in rows
        ]
    )
    torch.testing.assert_close(sums, expected)
    weight = torch.linspace(-1, 1, 6)
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    ours = torch.autograd.grad((sums * weight).sum(), trained)
    theirs = torch.autograd.grad((expected * weight).sum(), trained)
    assert all(gradient.abs().max() > 0 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
