"""Rows that train beside a frozen matrix: nothing at first, then what masking the whole matrix's gradient gives."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from adapt.methods.base import plain_model
from adapt.methods.full import Full
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from adapt.methods.rows_only import RowsOnly
from adapt.training import loss as losses
from adapt.training.precision import Precision
from adapt.training.rows import EmbeddingRows, OldRows, embedding_parameters
from adapt.training.rules import declared
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.training.workshop import equal, finished, make_run, weights

HEIGHT = 384
IDS = {"at the end": [380, 381, 382, 383], "between": [345, 346, 347, 348], "scattered": [17, 38, 204, 354]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Grown models, by (tied, where the new rows lie)."""
    made = {}
    tokenizer = make_tokenizer(ENGLISH)
    for tied in (False, True):
        for place, ids in IDS.items():
            folder = made[tied, place] = tmp_path_factory.mktemp("grown") / "model"
            make_model(HEIGHT, tied=tied).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / "adapt_vocabulary.json").write_text(json.dumps({"new_ids": ids}))
    return made


def attach_by_hook(model, ids) -> EmbeddingRows:
    """The reference: the whole matrix trains in float32, and a hook zeroes the gradient of all other rows."""
    parameters = embedding_parameters(model)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        mask = torch.zeros(len(parameter), 1)
        mask[ids] = 1
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
    return EmbeddingRows(tuple(parameters), tuple(parameters.values()), torch.tensor(ids), len(parameters) == 1)


CASES = [("at the end", 2**25), ("scattered", 2**25), ("between", 3 * HEIGHT), ("scattered", 3 * HEIGHT)]


@pytest.mark.parametrize(("place", "chunk"), CASES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_apart_train_as_rows_of_the_whole_matrix(tied, place, chunk, folders, tmp_path, monkeypatch):
    base, ids = folders[tied, place], IDS[place]
    changes = {"steps": 4, "accumulation": 2, "hold": "none"}
    reference = make_run(base, tmp_path / "a", Lora(r=2), **changes)
    reference.rows = attach_by_hook(plain_model(reference.model), ids)
    reference.execute()
    monkeypatch.setattr(losses, "CHUNK", chunk)
    run = make_run(base, tmp_path / "b", Lora(r=2, train_embeddings="new_rows"), **changes)
    run.execute()
    for name, found in run.rows.tensors().items():
        expected = reference.rows.tensors()[name]
        assert torch.allclose(found, expected, atol=2e-6), name
    expected, found = weights(reference), weights(run)
    lora = [name for name in found if ".lora_" in name]
    assert all(torch.allclose(found[name], expected[name], atol=2e-6) for name in lora)
    norms = [[event["gradient_norm"] for event in one.log.read("train")] for one in (reference, run)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_gradients_moments_and_checkpoints_have_only_the_rows(tied, folders, tmp_path):
    run = make_run(folders[tied, "scattered"], tmp_path, RowsOnly(), hold="none", steps=2, checkpoint_every=2)
    names = ["model.embed_tokens.rows"] if tied else ["model.embed_tokens.rows", "lm_head.rows"]
    assert list(declared(run.model)) == names
    run.execute()
    assert all(parameter.grad is None for parameter in run.rows.tables)
    stored = tmp_path / "checkpoints" / "checkpoint-2"
    assert {name: tensor.shape for name, tensor in load_file(stored / "weights.safetensors").items()} == dict.fromkeys(
        names, (4, 64)
    )
    moments = load_file(stored / "optimizer.safetensors")
    assert {tuple(tensor.shape) for name, tensor in moments.items() if "exp_avg" in name} == {(4, 64)}


def test_the_table_keeps_its_format_and_the_rows_have_float32(folders, tmp_path):
    bf16 = Precision(torch.device("cpu"), True)
    run = make_run(folders[True, "between"], tmp_path, Qlora(r=2, train_embeddings="new_rows"), "none", precision=bf16)
    (table,), (rows,) = run.rows.tables, run.rows.parameters
    assert (table.dtype, table.requires_grad) == (torch.bfloat16, False)
    assert (rows.dtype, rows.requires_grad) == (torch.float32, True)
    run.execute()
    assert rows.grad is None or rows.grad.dtype == torch.float32
    assert not torch.equal(rows.detach(), table[345:349].float())


def test_slow_old_rows_step_at_their_part_of_the_rate(folders, tmp_path):
    """At `lr_scale: 1` all is as where the whole matrix trains; else Adam's first step of old rows is scaled by it."""
    base = folders[False, "at the end"]

    def moved(scale):
        method = RowsOnly(train_embeddings="whole", old_rows=scale and OldRows(lr_scale=scale))
        run = make_run(base, tmp_path / f"{scale}", method, "none", steps=1)
        before = run.model.get_output_embeddings().weight.detach().clone()
        run.execute()
        return run, run.rows.tensors()["lm_head.weight"] - before

    whole, one, (run, tenth) = moved(None)[1], moved(1.0)[1], moved(0.1)
    assert torch.allclose(one, whole, atol=1e-6)
    assert torch.allclose(tenth[380:], whole[380:], atol=1e-6)
    assert torch.allclose(tenth[:380], 0.1 * whole[:380], atol=1e-6)
    assert run._trainable()["parameters"] == 2 * HEIGHT * 64
    assert run._trainable()["share"] == pytest.approx(
        2 * HEIGHT * 64 / sum(p.numel() for p in make_model(HEIGHT).parameters())
    )


@pytest.mark.parametrize("chunk", [2**25, 3 * HEIGHT], ids=["small", "chunked"])
def test_full_training_with_slow_old_rows_writes_what_it_trained(chunk, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    base, method = folders[True, "at the end"], Full(old_rows=OldRows(lr_scale=0.5))
    run = make_run(base, tmp_path, method, steps=2)
    run.execute()
    saved = method.save(finished(run, base), tmp_path)
    assert saved["merge"]["written"]["kl"] < 1e-6


def test_special_rows_are_held_among_slow_rows(folders, tmp_path):
    base = folders[True, "between"]
    method = Lora(r=2, train_embeddings="new_rows", old_rows=OldRows(lr_scale=0.5))
    run = make_run(base, tmp_path, method, steps=3)
    run.execute()
    before = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    saved = method.save(finished(run, base), tmp_path)
    after = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(after[:6], before[:6])
    assert (after[6:] != before[6:]).any(1).all()
    assert saved["merge"]["written"]["kl"] < 1e-6
    assert len(load_file(tmp_path / "adapter" / "embedding_rows.safetensors")["ids"]) == HEIGHT


@pytest.mark.parametrize(
    "method", [RowsOnly(), Lora(r=2, dropout=0.1, train_embeddings="new_rows", old_rows=OldRows())]
)
def test_a_run_goes_on_bit_for_bit(method, folders, tmp_path):
    changes = {"hold": "none", "steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    run = make_run(folders[True, "scattered"], tmp_path / "a", method, **changes)
    run.execute()
    shutil.copytree(tmp_path / "a" / "checkpoints" / "checkpoint-2", tmp_path / "b" / "checkpoints" / "checkpoint-2")
    again = make_run(folders[True, "scattered"], tmp_path / "b", method, **changes)
    again.execute()
    assert equal(weights(run), weights(again))


def test_gradient_checkpointing_changes_nothing(folders, tmp_path):
    runs = []
    for on in (False, True):
        method = Lora(r=2, train_embeddings="new_rows")
        run = make_run(
            folders[False, "between"], tmp_path / str(on), method, "none", gradient_checkpointing=on, steps=2
        )
        run.execute()
        runs.append(weights(run))
    assert all(torch.allclose(runs[0][name], runs[1][name], atol=1e-6) for name in runs[0])


def test_old_rows_of_frozen_embeddings_are_a_conflict():
    ((key, message),) = Lora(old_rows=OldRows()).conflicts()
    assert (key, message.split(";")[0]) == ("old_rows", "nothing of the embeddings trains")
    assert not list(Lora(train_embeddings="new_rows", old_rows=OldRows()).conflicts())
