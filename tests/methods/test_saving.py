"""What a method writes is the model that it trained: merged = adapter path, for every family, tied and untied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError
from adapt.methods.export import lora_scale, magnitude_form, measure, merge_adapter
from adapt.methods.full import Full
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from adapt.training.precision import Precision
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.training.workshop import equal, finished, make_run, weights

METHODS = {
    "full": Full(),
    "lora": Lora(r=4),
    "rslora": Lora(r=4, rslora=True, alpha=6),
    "dora": Lora(r=4, dora=True, targets=("q_proj", "down_proj")),
    "lora-whole": Lora(r=4, train_embeddings="whole"),
}


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tied"
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer) + 10, tied=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_written_model_is_the_trained_one(method, tied, tmp_path, tiny_model_folder, tied_folder):
    base = tied_folder if tied else tiny_model_folder
    run = make_run(base, tmp_path, method, steps=3)
    numbers = run.execute()
    assert numbers["tied_embeddings"] is tied
    saved = method.save(finished(run, base), tmp_path)
    assert saved["reload_difference"] < 1e-4
    assert saved["merge"]["written"]["kl"] < 1e-6
    assert saved["merge"]["written"]["top1_agreement"] == 1
    written = load_model(ModelLocation(str(tmp_path / "model")))
    assert (written.get_input_embeddings().weight is written.get_output_embeddings().weight) is tied


def test_bf16_base_is_rounded_once(tmp_path, tiny_model_folder):
    base = tmp_path / "bf16"
    model = load_model(ModelLocation(str(tiny_model_folder)), torch.bfloat16)
    model.save_pretrained(base)
    from adapt.checkpoints import load_tokenizer

    load_tokenizer(ModelLocation(str(tiny_model_folder))).save_pretrained(base)
    method = Lora(r=4, targets=("q_proj",))
    run = make_run(base, tmp_path / "run", method, steps=3)
    run.execute()
    method.save(finished(run, base), tmp_path / "run")
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert a.dtype == torch.float32
    old = load_file(base / "model.safetensors")[f"{name}.weight"]
    new = load_file(tmp_path / "run" / "model" / "model.safetensors")[f"{name}.weight"]
    assert new.dtype == torch.bfloat16
    assert torch.equal(new, (old.float() + method.scale * (b @ a)).bfloat16())


def test_qlora_trains_in_four_bits_and_measures_both_bases(tmp_path, tiny_model_folder):
    from bitsandbytes.nn import Linear4bit, Params4bit

    method = Qlora(r=8, merge_into="best")
    run = make_run(tiny_model_folder, tmp_path, method, steps=12)
    quantised = [module for module in run.model.modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == 14
    assert all(isinstance(module.weight, Params4bit) and module.weight.dtype == torch.uint8 for module in quantised)
    assert all(module.weight.quant_state.nested and module.compute_dtype == torch.float32 for module in quantised)
    run.execute()
    losses = [event["loss"] for event in run.log.read("train")]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3
    assert all(value.dtype == torch.float32 for value in weights(run).values())
    choice = method.save(finished(run, tiny_model_folder), tmp_path)["base_choice"]
    assert choice["dequantised"]["kl"] < choice["original"]["kl"]
    assert choice["written"] == "dequantised"
    assert choice["dequantised"]["top1_agreement"] > 0.95


def test_qlora_adds_to_the_unquantised_base_unless_told_otherwise(tmp_path, tiny_model_folder):
    method = Qlora(r=4, targets=("v_proj",))
    run = make_run(tiny_model_folder, tmp_path, method, steps=2)
    run.execute()
    choice = method.save(finished(run, tiny_model_folder), tmp_path)["base_choice"]
    assert choice["asked"] == choice["written"] == "original"
    before = load_file(tiny_model_folder / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.v_proj.weight" for layer in (0, 1)}


def test_the_adapter_loads_in_peft(tmp_path, tiny_model_folder):
    from peft import PeftModel

    method = Lora(r=4)
    run = make_run(tiny_model_folder, tmp_path, method, steps=2)
    run.execute()
    trained = finished(run, tiny_model_folder)
    method.save(trained, tmp_path)
    model = PeftModel.from_pretrained(load_model(trained.location, torch.float32), tmp_path / "adapter").eval()
    written = load_model(ModelLocation(str(tmp_path / "model"))).eval()
    with torch.inference_mode():
        left, right = model(trained.probe).logits, written(trained.probe).logits
    assert torch.allclose(left, right, atol=1e-5)


def test_a_tensor_that_nothing_consumes_is_an_error():
    state = {"model.q.weight": torch.eye(4)}
    whole = {f"base_model.model.model.q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    merge_adapter(state, whole, 1.0)
    with pytest.raises(AdaptError, match=r"model\.k\.lora_A\.weight' belongs to no weight"):
        merge_adapter(state, whole | {"base_model.model.model.k.lora_A.weight": torch.ones(4, 4)}, 1.0)
    with pytest.raises(AdaptError, match="belongs to no weight"):
        merge_adapter(state, {"base_model.model.model.q.modules_to_save.weight": torch.ones(4, 4)}, 1.0)
    with pytest.raises(AdaptError, match="is not whole"):
        merge_adapter(state, dict([next(iter(whole.items()))]), 1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_merge_is_the_adapter_path(rank, inside, outside, transposed):
    generator = torch.Generator().manual_seed(rank + 10 * inside + 100 * outside)
    weight, x = torch.randn(outside, inside, generator=generator), torch.randn(3, inside, generator=generator)
    a, b = torch.randn(rank, inside, generator=generator), torch.randn(outside, rank, generator=generator)
    state = {"m.weight": weight.T.contiguous() if transposed else weight}
    adapter = {"base_model.model.m.lora_A.weight": a, "base_model.model.m.lora_B.weight": b}
    merged = merge_adapter(state, adapter, 0.5, frozenset({"m"}) if transposed else frozenset())["m.weight"]
    merged = merged.T if transposed else merged
    assert torch.allclose(x @ merged.T, x @ weight.T + 0.5 * (x @ a.T) @ b.T, atol=1e-5)


def test_formulas():
    assert lora_scale(16, 32, False) == 2
    assert lora_scale(16, 32, True) == 8
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert torch.equal(magnitude_form(weight, torch.tensor([5.0, 1.0])), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    logits = torch.randn(2, 3, 5)
    assert measure(logits, logits + 7) == {"kl": pytest.approx(0, abs=1e-6), "top1_agreement": 1}


def test_full_writes_the_weights_that_trained(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Full(), steps=2)
    run.execute()
    Full().save(finished(run, tiny_model_folder, stops=(5, 0)), tmp_path)
    written = load_model(ModelLocation(str(tmp_path / "model")))
    assert equal(weights(run), dict(written.named_parameters()))
    assert written.generation_config.eos_token_id == [5, 0]


def _families():
    from transformers import (
        Gemma2Config,
        Gemma3TextConfig,
        LlamaConfig,
        MistralConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3Config,
    )

    kinds = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, Gemma2Config, Gemma3TextConfig, Phi3Config)
    return {kind.model_type: kind for kind in kinds}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"])
def test_every_family_trains_and_merges(family, bf16, tmp_path):
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer(ENGLISH)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}
    ids = {"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": 0}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(_families()[family](**size, **more, **ids)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    method = Lora(r=2)
    precision = Precision(torch.device("cpu"), bf16)
    run = make_run(tmp_path / "base", tmp_path, method, steps=2, precision=precision)
    run.execute()
    saved = method.save(finished(run, tmp_path / "base"), tmp_path)
    assert saved["merge"]["written"]["kl"] < (1e-3 if bf16 else 1e-6)
