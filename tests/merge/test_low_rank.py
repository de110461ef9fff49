"""Adapters extracted from differences: exact where the rank suffices, loaded by peft, and what is left out is said."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from merge import singular_values
from merge.commands import app
from merge.engine import write
from merge.errors import MergeError
from merge.low_rank import extract_lora
from merge.planning import prepare
from merge.singular_values import factors, truncated_svd
from tests.merge.family import EMBED, HEAD, make_family, plain_tokenizer, save
from tests.merge.test_adapters import Q, make_adapter


@pytest.fixture(scope="module", params=["untied", "tied"])
def family(request, tmp_path_factory):
    return make_family(tmp_path_factory.mktemp(request.param), tied=request.param == "tied")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def changed(folder, out, **tensors):
    """A copy of a model with some tensors replaced."""
    shutil.copytree(folder, out)
    found = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in tensors.items()}
    save_file({k: v.contiguous() for k, v in found.items()}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def pair_of(family, folder, **tensors):
    return {"base": family.folders["base"], "chat": changed(family.folders["base"], folder, **tensors)}


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(12)[None]).logits


def check_with_peft(folders, adapter, limit=1e-5):
    """What peft makes of the adapter is the chat model, and so is our own sum."""
    base = AutoModelForCausalLM.from_pretrained(folders["base"])
    live = PeftModel.from_pretrained(base, adapter).eval()
    chat = AutoModelForCausalLM.from_pretrained(folders["chat"]).eval()
    assert torch.allclose(logits(live), logits(chat), atol=limit)
    write(prepare("base + lora", {"base": folders["base"], "lora": adapter}), adapter.with_name("sum"))
    ours, expected = (load_file(f / "model.safetensors") for f in (adapter.with_name("sum"), folders["chat"]))
    for name, tensor in expected.items():
        assert torch.allclose(ours[name], tensor, atol=limit), name


def test_an_adapter_that_was_merged_comes_out_again(family, tmp_path):
    made = make_adapter(family.folders["base"], tmp_path / "lora", r=4)
    folders = pair_of(family, tmp_path / "chat", **{k: made[k] for k in family["base"]})
    report = extract_lora("chat - base", folders, tmp_path / "out", rank=16)
    assert report["error"] < 1e-5
    assert report["ranks"] == "4"
    assert set(report["kinds"]) == {"q_proj", "up_proj"}
    assert not report["left_out"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "up_proj"]
    assert set(config["rank_pattern"].values()) == {4}
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    prefix = f"base_model.model.{Q.removesuffix('.weight')}"
    product = tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
    assert torch.allclose(product, made[Q] - family["base"][Q], atol=1e-6)
    check_with_peft(folders, tmp_path / "out")


def test_a_full_difference_is_cut_and_the_error_is_told(untied, tmp_path):
    folders = {name: untied.folders[name] for name in ("base", "instruct")}
    report = extract_lora("instruct - base", folders, tmp_path / "out", rank=8)
    base, instruct = untied["base"], untied["instruct"]
    differences = {name: (instruct[name] - base[name]).double() for name in base}
    total = sum(float(d.square().sum()) for d in differences.values())
    rest = {"q": 0.0, "all": 0.0}
    for name, d in differences.items():
        low_rank = d.dim() == 2 and name not in (EMBED, HEAD)
        lost = float(torch.linalg.svdvals(d)[8:].square().sum()) if low_rank else float(d.square().sum())
        rest["all"] += lost
        rest["q"] += lost if "q_proj" in name else 0.0
    q = sum(float(d.square().sum()) for name, d in differences.items() if "q_proj" in name)
    assert report["error"] == pytest.approx((rest["all"] / total) ** 0.5, rel=1e-4)
    assert report["kinds"]["q_proj"]["error"] == pytest.approx((rest["q"] / q) ** 0.5, rel=1e-4)
    assert report["kinds"]["q_proj"]["energy"] == pytest.approx(q / total, rel=1e-4)
    assert set(report["left_out"]) == {
        "embed_tokens",
        "lm_head",
        "norm",
        "input_layernorm",
        "post_attention_layernorm",
    }
    share = float(differences[EMBED].square().sum()) / total
    assert report["left_out"]["embed_tokens"] == pytest.approx(share, rel=1e-4)
    assert json.loads((tmp_path / "out" / "low_rank.json").read_text()) == report


def test_all_of_a_difference_with_what_is_saved_whole(untied, tmp_path):
    folders = {"base": untied.folders["base"], "chat": untied.folders["instruct"]}
    whole = ("embeddings", "norms")
    report = extract_lora("chat - base", folders, tmp_path / "out", rank=64, save_whole=whole)
    assert report["error"] < 1e-5
    assert not report["left_out"]
    norms = {"norm", "input_layernorm", "post_attention_layernorm"}
    assert set(report["saved_whole"]) == {"embed_tokens", "lm_head"} | norms
    check_with_peft(folders, tmp_path / "out", 1e-4)


def test_tied_embeddings_cannot_be_saved_whole(tmp_path):
    folders = make_family(tmp_path / "tied", tied=True).folders
    with pytest.raises(MergeError, match="the head of 'base' is its embedding, of which peft would load a copy"):
        extract_lora("instruct - base", folders, tmp_path / "out", save_whole=["embeddings"])


def test_matrices_that_did_not_change_have_no_adapter(untied, tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 3, generator=generator) @ torch.randn(3, 64, generator=generator) * 0.01
    folders = pair_of(untied, tmp_path / "chat", **{Q: untied["base"][Q] + noise})
    report = extract_lora("chat - base", folders, tmp_path / "out", rank=3)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == [Q.removesuffix(".weight")]
    assert (report["matrices"], config["rank_pattern"]) == (1, {})
    check_with_peft(folders, tmp_path / "out")


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 40), st.floats(0.05, 1.0), st.integers(0, 10**6))
def test_energy_takes_the_least_rank_that_holds_it(rows, columns, rank, energy, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    squares = torch.linalg.svdvals(matrix.double()).square()
    b, a = factors(matrix, rank, energy)
    count, limit = a.shape[0], min(rank, rows, columns)
    share = squares.cumsum(0) / squares.sum()
    assert count <= limit
    assert count == limit or share[count - 1] >= energy - 1e-5
    assert count == 1 or share[count - 2] < energy + 1e-5
    lost = float((matrix - b @ a).double().square().sum())
    assert lost == pytest.approx(float(squares[count:].sum()), abs=1e-4 * float(squares.sum()))


def test_the_random_decomposition_is_near_the_best_and_seeded(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    u, v = (torch.linalg.qr(torch.randn(300, 200, generator=generator)).Q for _ in range(2))
    matrix = (u * torch.linspace(0, -4, 200).exp()) @ v.T
    u, s, vt = truncated_svd(matrix, 20)
    monkeypatch.setattr(singular_values, "EXACT", 100)
    ru, rs, rvt = truncated_svd(matrix, 20)
    best, random = (matrix - (x * y) @ z for x, y, z in ((u, s, vt), (ru, rs, rvt)))
    assert not torch.equal(rs, s)
    assert float(random.norm()) < 1.001 * float(best.norm())
    assert torch.equal(truncated_svd(matrix, 20)[0], ru)
    planted = matrix[:, :12] @ matrix[:12]
    ru, rs, rvt = truncated_svd(planted, 12)
    assert torch.allclose((ru * rs) @ rvt, planted, atol=1e-5)


def test_matrices_that_stand_the_other_way_round(tmp_path):
    torch.manual_seed(0)
    size = {"vocab_size": 384, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).eval()
    folders = {"base": save(tmp_path / "base", model, plain_tokenizer())}
    name = "transformer.h.0.attn.c_attn.weight"
    noise = torch.randn(32, 2) @ torch.randn(2, 96) * 0.02
    own = load_file(folders["base"] / "model.safetensors")
    key = next(key for key in own if name.endswith(key))
    folders["chat"] = changed(folders["base"], tmp_path / "chat", **{key: own[key] + noise})
    assert extract_lora("chat - base", folders, tmp_path / "out", rank=4)["error"] < 1e-5
    check_with_peft(folders, tmp_path / "out")


@pytest.mark.parametrize(
    ("expression", "options", "message"),
    [
        ("instruct - 0.5 * base - 0.5 * cpt", {}, "subtracts 2 models; an adapter belongs to the one"),
        ("base - base", {}, "'base - base' adds no model; write a difference like instruct - base"),
        ("instruct - base", {"energy": 90.0}, r"energy is 90; it is a share above 0, at most 1, for example 0\.9"),
        ("instruct - base", {"save_whole": ["mlp"]}, "'mlp' cannot be saved whole; embeddings and norms can"),
        ("chatml - base", {"save_whole": ["embeddings"]}, "do not have the same tokens in the same rows"),
        ("instruct", {}, "sum to 1, not to 0"),
    ],
)
def test_what_is_no_adapter(untied, tmp_path, expression, options, message):
    with pytest.raises(MergeError, match=message) as error:
        extract_lora(expression, untied.folders, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_command(untied, tmp_path):
    out = tmp_path / "out"
    places = [f"{name}={untied.folders[name]}" for name in ("instruct", "base")]
    command = ["extract-lora", "instruct - base", *places, "-r", "4", "--energy", "0.9", "-o", str(out)]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert "14 matrices of rank 4" in ran.output
    assert "not of low rank, left out" in ran.output
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "is not empty" in again.output) == (1, True)


def test_the_bytes_do_not_depend_on_threads(untied, tmp_path):
    for threads in (1, 3):
        extract_lora("instruct - base", untied.folders, tmp_path / str(threads), threads=threads, save_whole=["norms"])
    one, three = ((tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("1", "3"))
    assert one == three
