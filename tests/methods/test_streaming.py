"""A written model is streamed from the base's file: the same sum as in memory, with less of it there at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods.full import Full
from adapt.methods.half import Half
from adapt.methods.live_base import dequantised_weights, live_weights
from adapt.methods.lora import Lora
from adapt.methods.low_rank.updates import live_updates, total_updates
from adapt.methods.qlora import Qlora
from adapt.methods.reloading import in_float32, logits_of, proven_logits
from adapt.methods.rows_only import RowsOnly
from adapt.methods.streaming import Sum, write_sum
from merge.checkpoint import Checkpoint
from merge.errors import MergeError
from merge.verification import tensor_hashes, verify
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.training.workshop import finished, make_run

NEW = 12


@pytest.fixture(scope="module", params=["bf16-tied", "fp32"])
def base(request, tmp_path_factory) -> Path:
    """A tiny Llama whose last rows are those of new pieces, with rows of padding behind them."""
    folder = tmp_path_factory.mktemp("streamed") / request.param
    tokenizer = make_tokenizer(ENGLISH)
    model = make_model(len(tokenizer) + 10, tied="tied" in request.param)
    (model.bfloat16() if "bf16" in request.param else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    new = list(range(len(tokenizer) - NEW, len(tokenizer)))
    (folder / "adapt_vocabulary.json").write_text(json.dumps({"new_ids": new}))
    return folder


METHODS = {
    "full": Full(),
    "half": Half(),
    "half, new rows": Half(train_embeddings="new_rows"),
    "rows": RowsOnly(),
    "lora, rows and slow rows": Lora(r=2, train_embeddings="new_rows", old_rows={"lr_scale": 0.1}),
    "dora": Lora(r=2, dora=True, targets=("q_proj", "down_proj")),
    "qlora": Qlora(r=2, train_embeddings="new_rows"),
    "pissa": Qlora(r=2, init="pissa", merge_into="dequantised"),
}


def parts_of(method, trained, adapter) -> Sum:
    """What the method writes, to be summed in memory."""
    model = trained.model
    if isinstance(method, Half):
        return Sum(trained, live_weights(trained, model.adapt_selection.trained()))
    if isinstance(method, (Full, RowsOnly)):
        return Sum(trained, live_weights(trained) if isinstance(method, Full) else {})
    if getattr(method, "merge_into", "") == "dequantised":
        return Sum(trained, dequantised_weights(model.get_base_model()), adapter, live_updates(model))
    return Sum(trained, {}, adapter, total_updates(model))


@pytest.mark.parametrize("name", METHODS)
def test_the_streamed_sum_is_the_one_in_memory_rounded_once(name, base, tmp_path):
    method = METHODS[name]
    run = make_run(base, tmp_path, method, steps=3, hold="none")
    run.execute()
    trained = finished(run, base)
    saved = method.save(trained, tmp_path)
    assert "held_whole" not in saved
    assert saved["reload_difference"] == 0
    expected = parts_of(method, trained, tmp_path / "adapter").state()
    written, stored = load_file(tmp_path / "model" / "model.safetensors"), load_file(base / "model.safetensors")
    assert written.keys() == stored.keys()
    moved = 0
    for tensor, value in written.items():
        assert value.dtype == stored[tensor].dtype
        if value.dtype == torch.bfloat16:  # half a unit in the last place apart, and hardly ever
            same = (value == expected[tensor].bfloat16()).float().mean()
            assert same > 0.999, tensor
        assert torch.allclose(value.float(), expected[tensor], rtol=2**-8 if "bf16" in str(base) else 1e-6, atol=1e-7)
        moved += not torch.equal(value, stored[tensor])
    assert moved
    assert not {"candidate", "live_adapter", "README.md"} & {path.name for path in tmp_path.rglob("*")}
    assert (tmp_path / "model" / "merge.json").exists() == (tmp_path / "adapter" / "adapter_config.json").exists()


def test_the_record_names_what_was_added(base, tmp_path):
    run = make_run(base, tmp_path, Lora(r=2), steps=2)
    run.execute()
    Lora(r=2).save(finished(run, base, stops=(3, 0)), tmp_path)
    record = json.loads((tmp_path / "model" / "merge.json").read_text())
    assert record["expression"] == "base + adapter"
    assert {name: Path(entry["folder"]) for name, entry in record["inputs"].items()} == {
        "base": base,
        "adapter": tmp_path / "adapter",
    }
    assert load_model(ModelLocation(str(tmp_path / "model"))).generation_config.eos_token_id == [3, 0]
    assert (tmp_path / "model" / "adapt_vocabulary.json").exists()
    words = load_tokenizer(ModelLocation(str(tmp_path / "model")))
    assert words.get_vocab() == run.tokenizer.get_vocab()


def test_a_model_whose_tensors_have_other_names_on_the_disk_is_summed_in_memory(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = make_tokenizer(ENGLISH)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "num_local_experts": 2, "pad_token_id": 1}
    MixtralForCausalLM(MixtralConfig(**size, **more)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    method = Lora(r=2, targets=("q_proj",))
    run = make_run(tmp_path / "base", tmp_path, method, steps=2)
    run.execute()
    saved = method.save(finished(run, tmp_path / "base"), tmp_path)
    assert "on the disk has another name or shape in memory" in saved["held_whole"]
    assert saved["merge"]["written"]["kl"] < 1e-6


def test_products_in_float32_over_bf16_weights(tiny_model_folder):
    ids = torch.arange(40).unsqueeze(0)
    narrow = load_model(ModelLocation(str(tiny_model_folder)), torch.bfloat16)
    wide = load_model(ModelLocation(str(tiny_model_folder)), torch.bfloat16).float()
    before = dict(narrow.named_parameters())
    assert torch.equal(logits_of(narrow, ids), logits_of(wide, ids))
    assert all(parameter is before[name] for name, parameter in narrow.named_parameters())
    with pytest.raises(IndexError), in_float32(narrow):
        narrow(ids + 10_000)
    assert narrow(ids).logits.dtype == torch.bfloat16


def test_other_bytes_on_the_disk_are_found(base, tmp_path):
    run = make_run(base, tmp_path, RowsOnly(), steps=1)
    trained = finished(run, base)
    write_sum(Sum(trained), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    hashes = tensor_hashes(Checkpoint("written", tmp_path / "model"))
    assert proven_logits(tmp_path / "model", hashes, trained.probe)[0] == 0
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(AdaptError, match=r"'model\.norm\.weight' has other bytes on the disk than were written"):
        proven_logits(tmp_path / "model", hashes, trained.probe)


def test_the_rows_that_an_adapter_carries_are_among_the_inputs(base, tmp_path):
    method = Lora(r=2, train_embeddings="new_rows")
    run = make_run(base, tmp_path, method, steps=2)
    run.execute()
    method.save(finished(run, base), tmp_path)
    assert len(list(verify(tmp_path / "model"))) == 3
    file = tmp_path / "adapter" / "embedding_rows.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(MergeError, match=r"embedding_rows\.safetensors' is not what was merged: it has changed since"):
        list(verify(tmp_path / "model"))


def test_what_cannot_be_written_is_an_error_of_ours(base, tmp_path):
    run = make_run(base, tmp_path, Full(), steps=1, hold="none")
    trained = finished(run, base)
    with torch.no_grad():
        trained.model.model.norm.weight[0] = float("inf")
    with pytest.raises(AdaptError, match=r"^the sum of 'model\.norm\.weight' is too large for (bfloat16|float32)"):
        write_sum(Sum(trained, live_weights(trained)), tmp_path / "model")
    assert not (tmp_path / "model").exists()
