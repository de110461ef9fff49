"""Rules that are checked in the run: what changed, what trains, which rows stay, how the loss is normalised."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from adapt.errors import AdaptError
from adapt.methods.base import plain_model
from adapt.methods.full import Full
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from adapt.training.batches import flatten
from adapt.training.callbacks import Watch, evaluation_steps
from adapt.training.monitor import stability_gap
from adapt.training.optimizer import Optimizer, parameter_groups
from adapt.training.rows import special_rows
from adapt.training.rules import Snapshot, check_changes, declared, module_of, trainable_numbers
from adapt.training.schedules.constant import Constant
from tests.training.workshop import Rows, collate, equal, finished, is_number, make_plan, make_run, weights


@pytest.fixture(scope="module")
def grown_folder(tmp_path_factory, tiny_model_folder):
    folder = tmp_path_factory.mktemp("models") / "grown"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "adapt_vocabulary.json").write_text(json.dumps({"base_size": 380, "new_ids": [380, 381, 382, 383]}))
    return folder


@pytest.mark.parametrize("method", [Full(), Lora(r=2, train_embeddings="whole")], ids=["full", "lora"])
def test_special_rows_are_held_bit_for_bit(method, tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, method, optimizer=Optimizer(weight_decay=0.1), steps=4)
    tables = (plain_model(run.model).get_input_embeddings(), plain_model(run.model).get_output_embeddings())
    before = [table.weight.detach().clone() for table in tables]
    run.execute()
    held = sorted(special_rows(run.tokenizer, before[0].shape[0]))
    assert held == [0, 1, 2, 3, 4, 5]
    free = [row for row in range(before[0].shape[0]) if row not in held]
    for table, old in zip(tables, before, strict=True):
        assert torch.equal(table.weight[held], old[held])
        assert not torch.equal(table.weight[free], old[free])


def test_special_rows_move_when_they_are_not_held(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(), hold="none", steps=4)
    before = run.model.lm_head.weight.detach().clone()
    run.execute()
    assert (run.model.lm_head.weight != before).any(1).all()  # the softmax's gradient reaches every row


@pytest.mark.parametrize("method", [Full(train_embeddings="new_rows"), Qlora(r=2, train_embeddings="new_rows")])
def test_only_new_rows_move(method, tmp_path, grown_folder):
    run = make_run(grown_folder, tmp_path, method, optimizer=Optimizer(weight_decay=0.1), steps=4)
    numbers = run.execute()
    saved = method.save(finished(run, grown_folder), tmp_path)
    assert (tmp_path / "model" / "adapt_vocabulary.json").exists()
    assert is_number(saved["reload_difference"])
    before, after = (load_file(folder / "model.safetensors") for folder in (grown_folder, tmp_path / "model"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][:380], before[name][:380])
    assert (after["lm_head.weight"][380:] != before["lm_head.weight"][380:]).any(1).all()
    if isinstance(method, Qlora):
        lora = sum(p.numel() for n, p in declared(run.model).items() if "lora" in n)
        assert numbers["trainable"]["parameters"] == lora + 8 * 64
        rows = load_file(tmp_path / "adapter" / "embedding_rows.safetensors")
        assert rows["ids"].tolist() == [380, 381, 382, 383]
        assert torch.equal(after["lm_head.weight"][380:], rows["lm_head.weight"])


def test_only_rows_of_the_chat_template_move(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(train_embeddings="chat_rows"), hold="none", steps=4)
    run.stream = Rows(run.tokenizer, ["<|user|>five?<|end|><|assistant|>5<|end|>"] * 40)
    run.execute()
    before = load_file(tiny_model_folder / "model.safetensors")["lm_head.weight"]
    Full().save(finished(run, tiny_model_folder), tmp_path)
    after = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    moved = (after != before).any(1).nonzero().flatten().tolist()
    assert run.tokenizer.convert_ids_to_tokens(moved) == ["<|user|>", "<|assistant|>", "<|end|>"]


def test_rows_that_are_held_and_to_be_trained_are_one_line(tmp_path, tiny_model_folder):
    with pytest.raises(AdaptError, match=r"chat_rows trains nothing in .*: its 3 rows are held still, see hold_rows"):
        make_run(tiny_model_folder, tmp_path, Full(train_embeddings="chat_rows"))


def test_new_rows_of_a_model_without_any_is_one_line(tmp_path, tiny_model_folder):
    with pytest.raises(AdaptError, match="has no new rows to train"):
        make_run(tiny_model_folder, tmp_path, Lora(train_embeddings="new_rows"))


def test_padding_rows_count_as_special(tiny_model_folder, tmp_path):
    run = make_run(tiny_model_folder, tmp_path, Lora())
    assert {384, 385} <= special_rows(run.tokenizer, 386)


def test_accumulation_1_and_8_give_the_same_weights(tmp_path, tiny_model_folder):
    """Rows carry different numbers of labels, so a mean of means would differ."""
    finals = []
    for batch, accumulation in ((8, 1), (1, 8)):
        changes = {"batch_size": batch, "accumulation": accumulation, "steps": 2}
        run = make_run(tiny_model_folder, tmp_path / str(batch), Full(), **changes)
        norms = run.execute() and [event["gradient_norm"] for event in run.log.read("train")]
        finals.append((norms, weights(run)))
    assert finals[0][0] == pytest.approx(finals[1][0], rel=1e-5)
    for name, tensor in finals[0][1].items():
        assert torch.allclose(tensor, finals[1][1][name], atol=2e-5), name


def test_loss_is_the_mean_over_all_trained_tokens(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(), batch_size=1, accumulation=3, steps=1)
    rows = [Rows(run.tokenizer)[index] for index in range(3)]
    losses = []
    with torch.no_grad():
        for row in rows:
            ids, places = torch.tensor([row["input_ids"]]), torch.tensor([row["position_ids"]])
            logits = run.model(input_ids=ids, position_ids=places, use_cache=False).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="none")
            losses += [float(value) for value, label in zip(loss, row["labels"][1:], strict=True) if label != -100]
    run.execute()
    assert run.log.read("train")[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def summed_loss(model, batch):
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def test_packed_documents_do_not_see_each_other(tmp_path, tiny_model_folder):
    """The trainer's loss on a packed row is that of its two documents alone; also in FlashAttention's one-row form."""
    run = make_run(tiny_model_folder, tmp_path, Full(), steps=1)
    items = [Rows(run.tokenizer)[index] for index in (0, 2)]
    batch, half = collate(items), len(items[0]["input_ids"]) // 2
    batch["labels"][:, half] = -100  # nothing predicts a document's first token
    parts = [{name: tensor[:, start : start + half] for name, tensor in batch.items()} for start in (0, half)]
    losses = [summed_loss(run.model, one) for one in (batch, flatten(batch), *parts)]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-5)
    assert losses[0] == pytest.approx(float(losses[2] + losses[3]), rel=1e-5)


def test_a_frozen_tensor_that_moves_stops_the_run(tmp_path, tiny_model_folder, monkeypatch):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=2), steps=2)
    original = Watch.on_step_end

    def meddle(self, args, state, control, **others):
        self.trainer.model.get_base_model().model.norm.weight.data += 1
        return original(self, args, state, control, **others)

    monkeypatch.setattr(Watch, "on_step_end", meddle)
    with pytest.raises(AdaptError, match=r"model\.norm\.weight' changed in training though it was to stay frozen"):
        run.execute()


def test_a_held_row_that_moves_is_caught(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=2, train_embeddings="whole"))
    before = Snapshot.of(run.model, run.rows)
    with torch.no_grad():
        for parameter in declared(run.model).values():
            parameter += 1
    with pytest.raises(AdaptError, match=r"rows of 'model\.embed_tokens.weight' that were to be held still"):
        check_changes(before, Snapshot.of(run.model, run.rows), declared(run.model))


def test_a_declared_tensor_that_never_moves_is_caught(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=2))
    before = Snapshot.of(run.model, run.rows)
    with pytest.raises(AdaptError, match="was to train but did not change in the whole run"):
        check_changes(before, Snapshot.of(run.model, run.rows), declared(run.model))


def test_a_dead_module_stops_after_the_first_step(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full())
    run.model.unused = torch.nn.Linear(3, 3)
    with pytest.raises(AdaptError, match=r"1 of 21 modules that are to train got no gradient .* is 'unused'"):
        run.execute()
    assert not run.log.read("checkpoint")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(), schedule=Constant(peak=1e30), steps=4)
    with pytest.raises(AdaptError, match=r"became (nan|inf) at step \d .*lower schedule.peak"):
        run.execute()


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_optimisers_train_and_resume(kind, tmp_path, tiny_model_folder):
    changes = {"optimizer": Optimizer(kind=kind), "steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    run = make_run(tiny_model_folder, tmp_path / "a", Full(), **changes)
    run.execute()
    shutil.copytree(tmp_path / "a" / "checkpoints" / "checkpoint-2", tmp_path / "b" / "checkpoints" / "checkpoint-2")
    again = make_run(tiny_model_folder, tmp_path / "b", Full(), **changes)
    again.execute()
    assert equal(weights(run), weights(again))


def test_embeddings_norms_and_biases_do_not_decay(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full())
    matrices, vectors, tables = parameter_groups(run.model, run.rows, 1e-3, 0.1, 1e-4)
    assert [group["weight_decay"] for group in (matrices, vectors, tables)] == [0.1, 0, 0]
    assert [group["lr"] for group in (matrices, vectors, tables)] == [1e-3, 1e-3, 1e-4]
    assert len(matrices["params"]) == 14
    assert len(tables["params"]) == 2
    assert sum(len(group["params"]) for group in (matrices, vectors, tables)) == len(declared(run.model))


def test_trainable_share_counts_four_bit_weights_as_numbers(tmp_path, tiny_model_folder):
    plain = make_run(tiny_model_folder, tmp_path, Full(), hold="none")
    whole = trainable_numbers(plain.model, plain.rows)
    run = make_run(tiny_model_folder, tmp_path, Qlora(r=2))
    numbers = run._trainable()
    assert whole["share"] == 1
    assert numbers["parameters"] / numbers["share"] == pytest.approx(whole["parameters"] + numbers["parameters"])


def test_both_halves_of_an_update_belong_to_their_layer():
    assert (
        module_of("base.q_proj.lora_A.default.weight")
        == module_of("base.q_proj.lora_B.default.weight")
        == "base.q_proj"
    )
    assert module_of("model.norm.weight") == "model.norm"


def test_stability_gap():
    assert stability_gap([(0, 1.0), (5, 1.4), (10, 1.1), (15, 0.9)]) == {
        "depth": pytest.approx(0.4),
        "deepest_step": 5,
        "recovered_step": 15,
    }
    assert stability_gap([(0, 1.0), (5, 1.4), (10, 1.1)])["recovered_step"] is None
    assert stability_gap([(0, 1.0), (5, 0.8)]) == {"depth": 0, "deepest_step": 0, "recovered_step": 0}


def test_general_text_is_measured_before_during_and_after(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(), evaluations=3)
    general = run.execute()["general"]
    assert sorted(evaluation_steps(6, 3)) == [0, 2, 4, 6]
    assert len(general["curve"]) == 4
    assert general["end"] < general["start"] == general["curve"][0][1]
    assert general["stability_gap"]["depth"] == 0


def test_a_gradient_checkpointed_run_gives_the_same_weights(tmp_path, tiny_model_folder):
    runs = []
    for on in (False, True):
        run = make_run(tiny_model_folder, tmp_path / str(on), Lora(r=2), gradient_checkpointing=on, steps=2)
        run.execute()
        runs.append(weights(run))
    assert all(torch.allclose(runs[0][name], runs[1][name], atol=1e-6) for name in runs[0])


def test_plan_counts_the_updates_before_it():
    assert make_plan(steps=4, offset=6).total == 10
