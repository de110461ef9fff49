"""GGUF: the same model under other names. transformers reads the file back; every tensor is compared bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from adapt.errors import AdaptError
from adapt.export.gguf.architecture import Architecture, llama3_factors, permuted, unpermuted
from adapt.export.gguf.proof import prove
from adapt.export.gguf.values import block_error, decoded, encoded, kind_of
from adapt.export.gguf.write import ROPE_FACTORS, Plan, write
from tests.conftest import ENGLISH, make_tokenizer

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True}),
    "mistral-wide-heads": ("Mistral", {"head_dim": 32, "sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 128}),  # transformers reads no other width of a head for it
}


def make(folder: Path, family: str, changes: dict, dtype=torch.float32) -> Path:
    """A model with random weights, biases and norms too, and its tokenizer."""
    import transformers

    tokenizer = make_tokenizer(ENGLISH)
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **(SHAPE | changes))
    torch.manual_seed(5)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(folder: Path, file: str | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(ids).logits


@pytest.mark.parametrize(("family", "changes"), FAMILIES.values(), ids=FAMILIES)
def test_transformers_reads_the_same_logits(family, changes, tmp_path):
    folder = make(tmp_path / "model", family, changes, torch.bfloat16)
    plan = Plan.of(folder, "bf16")
    write(plan, tmp_path / "model.gguf", "tiny")
    numbers = prove(plan, tmp_path / "model.gguf", ENGLISH[:5])
    assert numbers["tensors"]["bf16"] == len([entry for entry in plan.entries if len(entry.shape) == 2])
    assert numbers["texts"] == 5
    if changes.get("attention_bias"):
        return  # transformers' own reader does not turn biases; llama.cpp is asked in test_llama_cpp.py
    assert torch.allclose(logits(tmp_path, "model.gguf"), logits(folder), atol=1e-5)


def test_q8_0_is_close_and_f16_exact(tmp_path):
    folder = make(tmp_path / "model", "Llama", {})
    for kind in ("f16", "q8_0"):
        plan = Plan.of(folder, kind)
        write(plan, tmp_path / f"{kind}.gguf", "tiny")
        numbers = prove(plan, tmp_path / f"{kind}.gguf")
        assert numbers["tokens"] == plan.checkpoint.height
    assert 0.5 < numbers["block_error"] <= 1
    assert (tmp_path / "q8_0.gguf").stat().st_size < 0.65 * (tmp_path / "f16.gguf").stat().st_size


def test_rows_that_8_bits_cannot_divide_are_f16():
    assert [kind_of((4, width), "q8_0") for width in (64, 48)] == ["q8_0", "f16"]
    assert kind_of((64,), "q8_0") == "f32"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.floats(1e-7, 1e3), st.integers(0, 99))
def test_q8_0_stays_within_its_blocks_error(rows, blocks, size, seed):
    values = size * torch.randn(rows, 32 * blocks, generator=torch.Generator().manual_seed(seed))
    found = decoded(encoded(values, "q8_0", "weight"), "q8_0")
    assert ((found - values).abs() <= block_error(values)).all()
    assert block_error(values).max() <= values.abs().max() / 127 * 0.6 + 1e-5


def test_f16_refuses_what_it_cannot_hold():
    with pytest.raises(AdaptError, match=r"'lm_head.weight' holds values beyond 65504, the largest of f16; write bf16"):
        encoded(torch.tensor([[1e5]]), "f16", "lm_head.weight")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 5))
def test_rows_from_halves_to_pairs_and_back(heads, half, width):
    rows = torch.arange(heads * 2 * half * width).view(heads * 2 * half, width)
    turned = permuted(rows, heads)
    assert torch.equal(unpermuted(turned, heads), rows)
    assert torch.equal(turned[1], rows[half])  # the second row of the first pair begins the second half
    assert torch.equal(permuted(rows[:, 0], heads), turned[:, 0])


def test_llama3_factors_are_those_of_transformers():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=131072, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 128, 2).float() / 128)
    factors = llama3_factors(rope, 128)
    assert torch.allclose(plain / scaled, factors, rtol=1e-4)
    assert factors.min() == 1
    assert factors.max() == 8


def test_llama3_factors_are_in_the_file(tmp_path):
    from gguf import GGUFReader

    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    folder = make(tmp_path / "model", "Llama", {"rope_parameters": rope})
    plan = Plan.of(folder, "bf16")
    write(plan, tmp_path / "model.gguf", "tiny")
    prove(plan, tmp_path / "model.gguf")
    found = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    assert torch.equal(torch.from_numpy(found[ROPE_FACTORS].data.copy()), llama3_factors(rope, 16))


def test_metadata(tmp_path):
    from gguf import GGUFReader

    folder = make(tmp_path / "model", "Mistral", {"head_dim": 32, "sliding_window": 64})
    plan = Plan.of(folder, "q8_0")
    write(plan, tmp_path / "model.gguf", "tiny")
    reader = GGUFReader(tmp_path / "model.gguf")
    read = {key: reader.get_field(key).contents() for key in reader.fields if not key.startswith("GGUF")}
    assert read["general.architecture"] == "llama"
    assert (read["llama.attention.head_count"], read["llama.attention.head_count_kv"]) == (4, 2)
    assert read["llama.attention.key_length"] == read["llama.rope.dimension_count"] == 32
    assert read["llama.vocab_size"] == len(read["tokenizer.ggml.tokens"]) == plan.checkpoint.height
    assert (read["llama.context_length"], read["llama.block_count"]) == (256, 2)
    assert plan.warnings() == ["llama.cpp attends to the whole context, this model to 64 tokens (sliding_window)"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "GGUF is written for llama, mistral, qwen2, qwen3; 'gpt2' is not one of them"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; llama.cpp's 'llama' computes with 'silu'"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "rope_type is 'longrope'; written are default, linear, llama3",
        ),
    ],
)
def test_models_that_it_cannot_hold_are_refused(changes, message):
    with pytest.raises(AdaptError, match=message):
        Architecture({"model_type": "llama", "hidden_act": "silu", **SHAPE, **changes})


def test_a_tensor_without_a_name_is_refused():
    with pytest.raises(AdaptError, match=r"GGUF has no name for the tensor 'model.layers.0.gate.weight' of a llama"):
        list(Architecture({"model_type": "llama", **SHAPE}).names({"model.layers.0.gate.weight": None}))


def test_the_proof_sees_one_changed_byte(tmp_path):
    folder = make(tmp_path / "model", "Llama", {})
    plan = Plan.of(folder, "bf16")
    file = tmp_path / "model.gguf"
    write(plan, file, "tiny")
    content = bytearray(file.read_bytes())
    content[-200] ^= 64
    file.write_bytes(content)
    with pytest.raises(AdaptError, match="does not read back as"):
        prove(plan, file)


def test_the_proof_sees_another_checkpoint(tmp_path):
    folder = make(tmp_path / "model", "Llama", {})
    plan = Plan.of(folder, "q8_0")
    write(plan, tmp_path / "model.gguf", "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] += 1.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdaptError, match=r"'blk.0.ffn_up.weight' does not read back as 'model.layers.0.mlp.up_proj"):
        prove(Plan.of(folder, "q8_0"), tmp_path / "model.gguf")
