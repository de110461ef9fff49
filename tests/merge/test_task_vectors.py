"""Task vectors as folders: extracted, added, described."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge.engine import write
from merge.errors import MergeError
from merge.planning import prepare
from merge.task_vectors import extract, info
from tests.merge.family import EMBED, make_family

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def family(tmp_path_factory, request):
    return make_family(tmp_path_factory.mktemp("family"), tied=request.param)


@pytest.mark.parametrize("instruct", ["instruct", "chatml"])
def test_adding_a_saved_vector_is_adding_the_difference(family, tmp_path, instruct):
    extract(f"{instruct} - base", family.folders, tmp_path / "residual")
    write(prepare(f"cpt + 0.8 * ({instruct} - base)", family.folders), tmp_path / "direct")
    folders = {"cpt": family.folders["cpt"], "residual": tmp_path / "residual"}
    write(prepare("cpt + 0.8 * residual", folders), tmp_path / "later")
    direct, later = (load_file(tmp_path / name / "model.safetensors") for name in ("direct", "later"))
    assert set(direct) == set(later)
    for name, tensor in direct.items():
        assert torch.allclose(later[name], tensor, atol=2e-7, rtol=0), name
    for file in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "config.json"):
        assert (tmp_path / "later" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes(), file
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "later").num_parameters() > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "later").chat_template


def test_differences_of_bf16_models_are_kept_whole(family, tmp_path):
    folders = {}
    for name in ("base", "instruct"):
        model = AutoModelForCausalLM.from_pretrained(family.folders[name], dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(family.folders[name])
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders[name] = tmp_path / name
    extract("instruct - base", folders, tmp_path / "residual")
    vector = load_file(tmp_path / "residual" / "model.safetensors")
    instruct, base = (load_file(folders[name] / "model.safetensors") for name in ("instruct", "base"))
    assert vector[UP].dtype == torch.float32
    assert torch.equal(vector[UP], instruct[UP].float() - base[UP].float())
    folders |= {"residual": tmp_path / "residual"}
    write(prepare("base + residual", {name: folders[name] for name in ("base", "residual")}), tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[UP], instruct[UP])


def test_special_rows_are_held_whole(family, tmp_path):
    extract("chatml - base", family.folders, tmp_path / "residual")
    vector, chat = load_file(tmp_path / "residual" / "model.safetensors"), family["chatml"]
    assert torch.equal(vector[EMBED][-2:], chat[EMBED][-2:])
    assert json.loads((tmp_path / "residual" / "task_vector.json").read_text()) == {
        "task_vector": "chatml - base",
        "rows_of_special_tokens": "chatml",
    }


def test_methods_take_saved_vectors(family, tmp_path):
    extract("instruct - base", family.folders, tmp_path / "residual")
    folders = family.folders | {"residual": tmp_path / "residual"}
    write(prepare("ties(base, [residual, cpt], density=0.5)", folders), tmp_path / "one")
    write(prepare("ties(base, [instruct, cpt], density=0.5)", folders), tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors")[UP] for name in ("one", "two"))
    assert ((one - two).abs() > 1e-6).float().mean() < 0.01


def test_what_a_vector_is(family, tmp_path):
    extract("instruct - base", family.folders, tmp_path / "residual")
    found = info(tmp_path / "residual")
    body = [n for n in family["base"] if "embed" not in n and "lm_head" not in n]
    expected = sum((family["instruct"][n] - family["base"][n]).double().square().sum() for n in body) ** 0.5
    assert found["norm_without_embeddings"] == pytest.approx(float(expected), rel=1e-6)
    assert found["expression"] == "instruct - base"
    assert list(found["models"]) == ["instruct", "base"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("instruct", "sum to 1, not to 0, so it is no task vector; write a difference like instruct - base"),
        ("instruct - 2 * base", "sum to -1, not to 0"),
    ],
)
def test_a_model_is_no_vector(family, tmp_path, expression, message):
    with pytest.raises(MergeError, match=message):
        extract(expression, family.folders, tmp_path / "residual")
    assert not (tmp_path / "residual").exists()


def test_a_model_folder_is_no_vector(family):
    with pytest.raises(MergeError, match=r"is no saved task vector: it has no task_vector\.json"):
        info(family.folders["base"])
