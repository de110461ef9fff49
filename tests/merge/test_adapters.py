"""LoRA adapters as task vectors: against peft's own merge, in sums and in calls, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merge.engine import write
from merge.errors import MergeError
from merge.planning import prepare
from tests.merge.family import EMBED, make_family

Q, UP, NORM = (f"model.layers.0.{part}.weight" for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"))
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.mlp.up_proj": 3}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved_whole": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def make_adapter(base, folder, seed=0, **settings):
    """An adapter whose every part is random; returns what peft itself makes of base and adapter."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]} | settings
    live = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in live.named_parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    live.save_pretrained(folder, save_embedding_layers=False)
    return {k: v.clone() for k, v in live.merge_and_unload().state_dict().items()}


def merged(expression, folders, out):
    write(prepare(expression, folders), out)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_added_as_peft_merges_it(family, tmp_path, kind):
    expected = make_adapter(family.folders["base"], tmp_path / "lora", **KINDS[kind])
    found = merged("base + lora", {"base": family.folders["base"], "lora": tmp_path / "lora"}, tmp_path / "out")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=2e-7, rtol=0), name
    assert not torch.equal(found[Q], family["base"][Q])


def test_two_adapters_are_added_exactly(family, tmp_path):
    base = family["base"]
    a = make_adapter(family.folders["base"], tmp_path / "a", seed=1)
    b = make_adapter(family.folders["base"], tmp_path / "b", seed=2, r=2)
    folders = {"base": family.folders["base"], "a": tmp_path / "a", "b": tmp_path / "b"}
    found = merged("base + 0.7 * a + 0.3 * b", folders, tmp_path / "out")
    for name in base:
        expected = base[name] + 0.7 * (a[name] - base[name]) + 0.3 * (b[name] - base[name])
        assert torch.allclose(found[name], expected, atol=2e-7, rtol=0)


def test_an_adapter_is_added_to_another_model_of_the_family(family, tmp_path):
    made = make_adapter(family.folders["base"], tmp_path / "lora", modules_to_save=["embed_tokens"])
    folders = {name: family.folders[name] for name in ("base", "cpt")} | {"lora": tmp_path / "lora"}
    found = merged("cpt + 0 * base + 0.5 * lora", folders, tmp_path / "out")
    base, cpt = family["base"], family["cpt"]
    assert torch.allclose(found[Q], cpt[Q] + 0.5 * (made[Q] - base[Q]), atol=2e-7)
    rows = slice(10, base[EMBED].shape[0])
    assert torch.allclose(found[EMBED][rows], (cpt[EMBED][rows] + 0.5 * (made[EMBED] - base[EMBED])[rows]), atol=2e-7)
    assert torch.equal(found[EMBED][base[EMBED].shape[0] :], cpt[EMBED][base[EMBED].shape[0] :])


def test_methods_take_adapters_as_the_base_plus_the_adapter(family, tmp_path):
    a = make_adapter(family.folders["base"], tmp_path / "a", seed=1)
    b = make_adapter(family.folders["base"], tmp_path / "b", seed=2)
    folders = {"base": family.folders["base"], "a": tmp_path / "a", "b": tmp_path / "b"}
    for name, state in (("full_a", a), ("full_b", b)):
        shutil.copytree(family.folders["base"], tmp_path / name)
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / name / "model.safetensors")
        folders[name] = tmp_path / name
    low_rank = merged("ties(base, [a: 1.0, b: 0.5], density=0.3)", folders, tmp_path / "one")
    full = merged("ties(base, [full_a: 1.0, full_b: 0.5], density=0.3)", folders, tmp_path / "two")
    for name in full:
        apart = (low_rank[name] - full[name]).abs() > 1e-6  # rounding may move an element over the threshold
        assert apart.float().mean() < 0.01, name


def test_the_result_of_a_trained_adapter_is_loaded_by_peft_alike(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora")
    merged("base + lora", {"base": family.folders["base"], "lora": tmp_path / "lora"}, tmp_path / "out")
    ids = torch.arange(12)[None]
    base = AutoModelForCausalLM.from_pretrained(family.folders["base"], dtype=torch.float32)
    live = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        assert torch.allclose(ours(ids).logits, live(ids).logits, atol=1e-5)


def change(folder, **tensors):
    path = folder / "adapter_model.safetensors"
    found = {k: v for k, v in load_file(path).items() if tensors.get(k, v) is not None}
    save_file(found | {k: v for k, v in tensors.items() if v is not None}, path)


AB = ("lora_A", "lora_B")
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {f"base_model.model.model.layers.9.mlp.up_proj.{part}.weight": torch.ones(4, 4) for part in AB},
            "changes 'model.layers.9.mlp.up_proj.weight', which 'base' does not have",
        ),
        ({f"{PREFIX}.lora_B.weight": torch.ones(7, 4)}, r"of shape \[7, 64\], but in 'base' it has shape \[64, 64\]"),
        ({f"{PREFIX}.lora_B.weight": None}, "holds only lora_A for 'model.layers.0.self_attn.q_proj'"),
        ({f"{PREFIX}.lora_A.weight": torch.full((4, 64), float("nan"))}, "'lora' holds NaN or infinity in"),
        ({"lora_A": torch.ones(4, 64)}, "which is not a peft adapter's tensor"),
    ],
)
def test_adapters_that_do_not_fit(family, tmp_path, tensors, message):
    make_adapter(family.folders["base"], tmp_path / "lora")
    change(tmp_path / "lora", **tensors)
    with pytest.raises(MergeError, match=message) as error:
        merged("base + lora", {"base": family.folders["base"], "lora": tmp_path / "lora"}, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_kinds_of_adapters_are_refused(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(MergeError, match="'lora' is an adapter of type 'IA3'; only LoRA can be added"):
        prepare("base + lora", {"base": family.folders["base"], "lora": tmp_path / "lora"})


def test_an_adapter_alone_is_no_model(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora")
    with pytest.raises(MergeError, match="sum to 0, not to 1"):
        prepare("2 * lora", {"lora": tmp_path / "lora"})
