"""Rows of tokens in merge files: by index only where that is right, by token as mergekit does it, unions done right."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge.device import BLOCKS
from merge.errors import MergeError
from merge.yaml_files import prepare_yaml
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN
from tests.merge.family import EMBED, GROWN, HEAD, make_family
from tests.merge.yaml_files.harness import assert_equal, filled, mergekits, ours

SIZE = 384


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def arithmetic(*models, **more):
    listed = [{"model": f"@{name}", "parameters": {"weight": 0.3 + 0.2 * i}} for i, name in enumerate(models)]
    start = {"merge_method": "task_arithmetic", "base_model": "@base", "dtype": "float32"}
    return {**start, "models": listed, **more}


FILES = {
    "a model's": arithmetic("cpt", "instruct", tokenizer_source="@cpt"),
    "the base's": arithmetic("cpt", "chatml", tokenizer_source="base"),
    "another's, the base in the middle": arithmetic("chatml", "base", "cpt", tokenizer_source="@chatml"),
    "tokens that two have and the base lacks": {
        "merge_method": "linear",
        "dtype": "float32",
        "tokenizer": {"source": "@cpt"},
        "models": [{"model": f"@{name}", "parameters": {"weight": w}} for name, w in (("cpt", 0.6), ("twin", 0.9))]
        + [{"model": "@instruct", "parameters": {"weight": 0.2}}],
    },
    "a stranger's, with tokens that no model has": arithmetic("instruct", tokenizer_source="@cpt"),
    "padded rows": arithmetic("cpt", tokenizer={"source": "@cpt", "pad_to_multiple_of": 64}),
    "rules for tokens": arithmetic(
        "cpt",
        "chatml",
        tokenizer={
            "source": "@chatml",
            "tokens": {
                "<|im_start|>": {"source": {"kind": "model_token", "model": "@cpt", "token": "<|user|>"}},
                "<|im_end|>": {"source": {"kind": "model_token", "model": "@base", "token_id": 5}, "force": True},
                "<|pad|>": {"source": {"kind": "zero"}, "force": True},
                "<|end|>": {"source": "@cpt", "force": True},
            },
        },
    ),
}


@pytest.fixture(scope="module")
def folders(family, tmp_path_factory):
    """The family, and a twin of the grown model with other weights."""
    twin = tmp_path_factory.mktemp("twin") / "twin"
    shutil.copytree(family.folders["cpt"], twin)
    model = AutoModelForCausalLM.from_pretrained(twin)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(11))
    model.save_pretrained(twin)
    return family.folders | {"twin": twin}


@pytest.mark.parametrize("name", FILES)
def test_rows_by_token_are_mergekits(folders, tmp_path, name):
    theirs = mergekits(FILES[name], folders, tmp_path)
    result = ours(FILES[name], folders, tmp_path)
    assert_equal(result.weights, theirs)
    AutoModelForCausalLM.from_pretrained(result.folder)


def test_a_token_of_one_model_is_that_models_row(family, tmp_path):
    result = ours(FILES["a model's"], family.folders, tmp_path)
    for name in (EMBED, HEAD):
        assert torch.allclose(result.weights[name][SIZE:], family["cpt"][name][SIZE:], atol=1e-7)
    text = UKRAINIAN[0]
    ids = [AutoTokenizer.from_pretrained(place).encode(text) for place in (result.folder, family.folders["cpt"])]
    assert ids[0] == ids[1]
    assert max(ids[0]) >= SIZE


@pytest.mark.parametrize("models", [("cpt", "instruct"), ("cpt", "chatml"), ("chatml", "instruct")])
def test_a_union_is_the_tokenizer_that_has_the_pieces_of_all(family, tmp_path, models):
    result = ours(arithmetic(*models, tokenizer_source="union"), family.folders, tmp_path)
    owner = models[0]
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    original = AutoTokenizer.from_pretrained(family.folders[owner])
    for text in (*UKRAINIAN[:5], *ENGLISH[:5]):
        assert tokenizer.encode(text) == original.encode(text)
    added = 2 if "chatml" in models and owner != "chatml" else 0
    assert result.weights[EMBED].shape[0] == len(original) + added == len(tokenizer)
    if added:
        assert tokenizer.encode("<|im_end|>") == [SIZE + GROWN + 1]
        chatml = family["chatml"][EMBED][SIZE:]
        assert torch.allclose(result.weights[EMBED][-2:], chatml, atol=1e-7)


def test_a_union_of_pieces_that_no_model_has_is_refused(family, tmp_path):
    """Two growths of one vocabulary: the pieces of either are never made by the merges of the other."""
    other = tmp_path / "other"
    shutil.copytree(family.folders["cpt"], other)
    document = json.loads((other / "tokenizer.json").read_text())
    moved = {f"{token}x" if index >= SIZE else token: index for token, index in document["model"]["vocab"].items()}
    document["model"]["vocab"], document["model"]["merges"] = moved, []
    (other / "tokenizer.json").write_text(json.dumps(document))
    file = tmp_path / "merge.yaml"
    content = arithmetic("cpt", "other", tokenizer_source="union")
    file.write_text(filled(content, family.folders | {"other": other}))
    with pytest.raises(MergeError, match=r"line \d+: no model has the tokens of all: .* lacks 20, such as ") as error:
        prepare_yaml(file)
    assert "never occurs in a text" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pair", [("cpt", "chatml"), ("cpt", "instruct")])
def test_vocabularies_that_differ_are_not_blended_by_index(family, tmp_path, pair):
    file = tmp_path / "merge.yaml"
    models = [{"model": f"@{name}", "parameters": {"weight": 1}} for name in pair]
    file.write_text(filled({"merge_method": "linear", "models": models}, family.folders))
    with pytest.raises(MergeError, match="add 'tokenizer_source: base'") as error:
        prepare_yaml(file)
    assert "\n" not in str(error.value)


def test_a_token_that_is_added_by_the_file(family, tmp_path):
    rule = {"source": {"kind": "model_token", "model": "@instruct", "token": "<|user|>"}}
    content = arithmetic("instruct", tokenizer={"source": "base", "tokens": {"<|tool|>": rule}})
    result = ours(content, family.folders, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer.encode("<|tool|>") == [SIZE]
    user = AutoTokenizer.from_pretrained(family.folders["base"]).convert_tokens_to_ids("<|user|>")
    assert torch.allclose(result.weights[EMBED][SIZE], family["instruct"][EMBED][user], atol=1e-7)


def test_files_beside_the_weights(family, tmp_path):
    """Template, stop tokens and generation settings come from the model that has them, and it is said."""
    result = ours(arithmetic("cpt", "instruct", tokenizer_source="@cpt"), family.folders, tmp_path)
    assert AutoTokenizer.from_pretrained(result.folder).chat_template == CHAT_TEMPLATE
    said = [text for text in result.record["warnings"] if "no chat template" in text]
    assert len(said) == 1
    assert "instruct" in said[0]
    assert (result.folder / "mergekit_config.yml").read_text() == (tmp_path / "merge.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("auto", CHAT_TEMPLATE), ("{{ messages }}", "{{ messages }}"), ("chatml", "<|im_start|>")],
)
def test_chat_templates(family, tmp_path, given, expected):
    result = ours(arithmetic("instruct", chat_template=given), family.folders, tmp_path)
    assert expected in AutoTokenizer.from_pretrained(result.folder).chat_template


@pytest.mark.parametrize("name", ["padded rows", "rules for tokens"])
def test_blocks_change_nothing(folders, tmp_path, name, monkeypatch):
    whole = ours(FILES[name], folders, tmp_path).weights
    (tmp_path / "again").mkdir()
    monkeypatch.setitem(BLOCKS, "cpu", 200)
    blocks = ours(FILES[name], folders, tmp_path / "again").weights
    assert all(torch.equal(tensor, blocks[key]) for key, tensor in whole.items())


def test_padding_rows_hold_the_mean_and_the_config_counts_them(family, tmp_path):
    result = ours(FILES["padded rows"], family.folders, tmp_path)
    embedding = result.weights[EMBED]
    assert embedding.shape[0] == 448
    assert json.loads((result.folder / "config.json").read_text())["vocab_size"] == 448
    assert torch.equal(embedding[SIZE + GROWN], embedding[-1])
