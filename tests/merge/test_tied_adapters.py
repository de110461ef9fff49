"""Adapters of a model whose head is its embedding: the result computes what peft computes, with one matrix or two."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merge.engine import write
from merge.errors import MergeError
from merge.planning import prepare
from merge.yaml_files import prepare_yaml
from tests.merge.family import EMBED, HEAD, make_family

KINDS = {
    "head": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    "both apart": ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, False),
    "both tied": ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
    "head saved whole": ({"modules_to_save": ["lm_head"]}, False),
    "embedding saved whole": ({"modules_to_save": ["embed_tokens"]}, False),
    "saved whole and tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "neither": ({}, True),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"), tied=True)


def make_adapter(base, folder, copies, **settings):
    """An adapter whose every part is random; `copies` are saved of embedding and head beside it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    live = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **{"target_modules": ["q_proj"]} | settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    live.save_pretrained(folder, save_embedding_layers=copies)


def logits(model):
    with torch.inference_mode():
        return model.eval()(torch.arange(5, 40)[None]).logits


def add(folder, **tensors):
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {f"base_model.model.{name}": t for name, t in tensors.items()}, path)


def merged(family, adapter, out, expression="base + lora"):
    plan = prepare(expression, {"base": family.folders["base"], "lora": adapter})
    write(plan, out)
    return plan, load_file(out / "model.safetensors")


@pytest.mark.parametrize("copies", [False, True], ids=["bare", "with copies"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_computes_what_peft_computes(family, tmp_path, kind, copies):
    settings, tied = KINDS[kind]
    make_adapter(family.folders["base"], tmp_path / "lora", copies, **settings)
    base = AutoModelForCausalLM.from_pretrained(family.folders["base"], dtype=torch.float32)
    live = logits(PeftModel.from_pretrained(base, tmp_path / "lora"))
    plan, found = merged(family, tmp_path / "lora", tmp_path / "out")
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), live, atol=2e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is tied
    assert (HEAD in found) is not tied
    assert any("in the result they are two" in warning for warning in plan.warnings) is not tied


def test_a_part_of_a_trained_head_is_added_to_the_embedding(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", False)
    embedding, head = family["base"][EMBED], torch.randn(384, 64, generator=torch.Generator().manual_seed(1))
    add(tmp_path / "lora", **{HEAD: head})
    _, found = merged(family, tmp_path / "lora", tmp_path / "out", "base + 0.5 * lora")
    assert torch.equal(found[EMBED], embedding)
    assert torch.allclose(found[HEAD], 0.5 * embedding + 0.5 * head, atol=1e-6)


def test_an_equal_copy_in_another_type_is_left_out(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", False)
    add(tmp_path / "lora", **{HEAD: family["base"][EMBED].double()})
    plan, found = merged(family, tmp_path / "lora", tmp_path / "out")
    assert HEAD not in found
    assert plan.tied


def test_a_model_with_a_head_of_its_own_keeps_it_and_its_warning_away(family, tmp_path):
    apart = make_family(tmp_path / "apart")
    make_adapter(apart.folders["base"], tmp_path / "lora", True, target_modules=["embed_tokens", "lm_head"])
    plan, found = merged(apart, tmp_path / "lora", tmp_path / "out")
    assert HEAD in found
    assert not plan.warnings


def test_in_a_file_of_mergekits_form(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", False, modules_to_save=["lm_head"])
    path = tmp_path / "merge.yaml"
    entry = f"{family.folders['base']}+{tmp_path / 'lora'}"
    path.write_text(f"merge_method: passthrough\ndtype: float32\nmodels: [{{model: '{entry}'}}]\n")
    plan = prepare_yaml(path)
    write(plan, tmp_path / "out")
    _, found = merged(family, tmp_path / "lora", tmp_path / "one")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[HEAD], found[HEAD])
    assert not plan.tied


def test_a_head_of_another_height(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", False)
    add(tmp_path / "lora", **{HEAD: torch.ones(385, 64)})
    message = r"'lora' changes 'lm_head.weight' of shape \[385, 64\], but in 'base' it has shape \[384, 64\]"
    with pytest.raises(MergeError, match=message):
        prepare("base + lora", {"base": family.folders["base"], "lora": tmp_path / "lora"})


def test_a_trained_head_with_nan(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", False)
    add(tmp_path / "lora", **{HEAD: torch.full((384, 64), float("nan"))})
    with pytest.raises(MergeError, match=f"'lora' holds NaN or infinity in 'base_model.model.{HEAD}'"):
        merged(family, tmp_path / "lora", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_original_that_is_not_the_models(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", True, modules_to_save=["lm_head"])
    with pytest.raises(
        MergeError, match=r"'lora' was trained on another 'model\.embed_tokens\.weight' than that of 'base'"
    ):
        prepare("base + lora", {"base": family.folders["instruct"], "lora": tmp_path / "lora"})
