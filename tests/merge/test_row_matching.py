"""Which row of the result comes from where: every rule of the row matching, on models with different vocabularies."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge.engine import write
from merge.errors import MergeError
from merge.planning import prepare
from tests.conftest import CHAT_TEMPLATE, UKRAINIAN, make_model, make_tokenizer
from tests.merge.family import EMBED, GROWN, HEAD, make_family, nudge, plain_tokenizer, save

SIZE, SPECIAL = 384, 6
SPECIAL_ROWS = slice(0, SPECIAL)
SHARED = slice(SPECIAL, SIZE)
NEW = slice(SIZE, SIZE + GROWN)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def tied_family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("tied"), tied=True)


def merged(folders, expression, output, **settings):
    shard_size = settings.pop("shard_size", 5 * 10**9)
    plan = prepare(expression, folders, **settings)
    decisions = write(plan, output, shard_size)
    files = sorted(output.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}, decisions


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_grown_cpt_and_instruct(family, tmp_path, weight):
    result, decisions = merged(family.folders, f"cpt + {weight} * (instruct - base)", tmp_path / "out")
    cpt, instruct, base = family["cpt"], family["instruct"], family["base"]
    for name in (EMBED, HEAD):
        expected = cpt[name][:SIZE] + weight * (instruct[name] - base[name])
        assert torch.allclose(result[name][SHARED], expected[SHARED], atol=1e-7)
        assert torch.equal(result[name][NEW], cpt[name][NEW])
        assert torch.equal(result[name][SPECIAL_ROWS], (instruct if weight else cpt)[name][SPECIAL_ROWS])
    for name in set(cpt) - {EMBED, HEAD}:
        assert torch.allclose(result[name], cpt[name] + weight * (instruct[name] - base[name]), atol=1e-7)
    rows = decisions["rows"]
    if weight:
        assert (rows["shared"], rows["anchor_only"], rows["special"]) == (SIZE - SPECIAL, GROWN, SPECIAL)
        assert decisions["special_from"] == "instruct"
    assert decisions["vocabulary_from"] == "cpt"


def test_one_index_for_two_tokens_and_chat_tokens_that_only_one_model_has(family, tmp_path):
    """`cpt` keeps pieces under the ids that `chatml` uses for chat tokens."""
    out = tmp_path / "out"
    result, decisions = merged(family.folders, "cpt + 0.5 * (chatml - base)", out)
    cpt, chatml = family["cpt"], family["chatml"]
    for name in (EMBED, HEAD):
        assert result[name].shape[0] == SIZE + GROWN + 2
        assert torch.equal(result[name][NEW], cpt[name][NEW])
        assert torch.equal(result[name][-2:], chatml[name][SIZE : SIZE + 2])
    assert decisions["rows"]["appended"] == 2
    assert decisions["rows"]["special"] == SPECIAL + 2
    tokenizer, grown = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(family.folders["cpt"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end == SIZE + GROWN + 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.encode("a<|im_end|>")[-1] == end
    assert "<|im_end|>" in tokenizer.all_special_tokens
    for text in UKRAINIAN[:5]:
        assert tokenizer.encode(text) == grown.encode(text)
    config = json.loads((out / "config.json").read_text())
    generation = json.loads((out / "generation_config.json").read_text())
    assert config["vocab_size"] == SIZE + GROWN + 2
    assert config["eos_token_id"] == generation["eos_token_id"] == end
    assert generation["max_new_tokens"] == 77
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.get_output_embeddings().weight.shape[0] == SIZE + GROWN + 2


def test_a_pure_average_averages_special_rows_too(family, tmp_path):
    result, decisions = merged(family.folders, "0.25 * base + 0.75 * instruct", tmp_path / "out")
    expected = 0.25 * family["base"][EMBED] + 0.75 * family["instruct"][EMBED]
    assert torch.allclose(result[EMBED], expected, atol=1e-7)
    assert decisions["special_from"] is None
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        family.folders["base"] / "tokenizer.json"
    ).read_bytes()


def reordered(tokenizer, order):
    """The same tokens under other ids."""
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = {token: order[index] for token, index in document["model"]["vocab"].items()}
    document["model"]["vocab"] = dict(sorted(ids.items(), key=lambda item: item[1]))
    for token in document["added_tokens"]:
        token["id"] = order[token["id"]]
    return document


def test_rows_follow_their_tokens_not_their_index(family, tmp_path):
    """An instruct model whose whole vocabulary is in another order merges to the same result."""
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0)).tolist()
    model = nudge(make_model(SIZE), 1)
    with torch.no_grad():
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.weight[order] = module.weight.clone()
    tokenizer = plain_tokenizer(CHAT_TEMPLATE)
    folder = save(tmp_path / "shuffled", model, tokenizer, reordered(tokenizer, order))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": order[0], "pad_token_id": order[1]}))
    generation = json.loads((folder / "generation_config.json").read_text())
    generation |= {"eos_token_id": [order[0], order[5]], "pad_token_id": order[1]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    plain, _ = merged(family.folders, "cpt + 0.5 * (instruct - base)", tmp_path / "plain")
    folders = family.folders | {"instruct": folder}
    matched, decisions = merged(folders, "cpt + 0.5 * (instruct - base)", tmp_path / "matched")
    assert decisions["rows"]["moved"]["instruct"] > 300
    assert all(torch.equal(matched[name], plain[name]) for name in plain)
    written = json.loads((tmp_path / "matched" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [0, 5]
    assert json.loads((tmp_path / "matched" / "config.json").read_text())["eos_token_id"] == 0


def test_padding_rows_are_the_anchors(family, tmp_path):
    model = nudge(make_model(SIZE), 2)
    model.resize_token_embeddings(SIZE + 10)
    folders = family.folders | {"padded": save(tmp_path / "padded", nudge(model, 9), plain_tokenizer())}
    result, decisions = merged(folders, "padded + 0.5 * (instruct - base)", tmp_path / "one")
    assert torch.equal(result[EMBED][SIZE:], load_file(tmp_path / "padded/model.safetensors")[EMBED][SIZE:])
    assert decisions["rows"]["padding"] == 10
    result, decisions = merged(folders, "padded + 0.5 * (chatml - base)", tmp_path / "two")
    assert torch.equal(result[EMBED][SIZE : SIZE + 2], family["chatml"][EMBED][SIZE : SIZE + 2])
    assert result[EMBED].shape[0] == SIZE + 10
    assert decisions["rows"]["padding"] == 8
    result, _ = merged(folders, "base + 0.5 * (padded - base)", tmp_path / "three")
    assert result[EMBED].shape[0] == SIZE


def test_a_difference_without_a_token_leaves_its_row(family, tmp_path):
    """Of two differences one lacks a piece: the other still counts there, and without both the anchor's row stands."""
    tokenizer = plain_tokenizer()
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    left, right = document["model"]["merges"].pop()
    del document["model"]["vocab"][left + right]
    folders = family.folders | {
        "poorer": save(tmp_path / "poorer", nudge(make_model(SIZE - 1), 8), tokenizer, document)
    }
    result, decisions = merged(folders, "cpt + 0.5 * (instruct - base) + 0.25 * (poorer - base)", tmp_path / "out")
    row, (cpt, instruct, base) = SIZE - 1, (family[name][EMBED] for name in ("cpt", "instruct", "base"))
    assert torch.allclose(result[EMBED][row], cpt[row] + 0.5 * (instruct[row] - base[row]), atol=1e-7)
    assert decisions["rows"]["partly"] == 1
    with pytest.raises(AssertionError):
        assert torch.allclose(result[EMBED][row - 1], cpt[row - 1] + 0.5 * (instruct[row - 1] - base[row - 1]))


def test_tokens_that_would_be_lost_are_named(family, tmp_path):
    _, decisions = merged(family.folders, "instruct + (cpt - base)", tmp_path / "out", vocabulary_from="instruct")
    assert decisions["rows"]["dropped"] == {"cpt": GROWN}
    assert f"{GROWN} tokens of 'cpt' are lost" in decisions["warnings"][0]
    plan = prepare("instruct + (cpt - base)", family.folders)
    assert plan.roles.anchor == "cpt"
    assert not plan.warnings


def test_roles_that_are_given(family, tmp_path):
    result, _ = merged(family.folders, "cpt + 1 * (instruct - base)", tmp_path / "out", special_from="cpt")
    assert torch.equal(result[EMBED][SPECIAL_ROWS], family["cpt"][EMBED][SPECIAL_ROWS])


@pytest.mark.parametrize("expression", ["cpt + 0.5 * (instruct - base)", "0.5 * base + 0.5 * instruct"])
def test_tied_models_stay_tied(tied_family, tmp_path, expression):
    result, _ = merged(tied_family.folders, expression, tmp_path / "out")
    assert HEAD not in result
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("untied", ["cpt", "instruct", "base"])
def test_one_untied_model_unties_the_result(family, tied_family, tmp_path, untied):
    folders = tied_family.folders | {untied: family.folders[untied]}
    result, _ = merged(folders, "cpt + 0.5 * (instruct - base)", tmp_path / "out")

    def head(name):
        return family[name][HEAD] if name == untied else tied_family[name][EMBED]

    expected = head("cpt")[:SIZE] + 0.5 * (head("instruct") - head("base"))
    assert torch.allclose(result[HEAD][SHARED], expected[SHARED], atol=1e-7)
    assert torch.equal(result[HEAD][NEW], head("cpt")[NEW])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, result[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, result[EMBED])


def test_a_head_beside_a_config_that_ties_it_away(family, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(family.folders["cpt"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(MergeError, match=r"'odd' has a 'lm_head\.weight' of its own"):
        prepare("odd + 1 * (instruct - base)", family.folders | {"odd": folder})


def test_strangers_are_refused(family, tmp_path):
    tokenizer = make_tokenizer(["Ганна пішла додому. " * 3, *UKRAINIAN], 700)
    folder = save(tmp_path / "other", make_model(len(tokenizer)), tokenizer)
    document = json.loads((folder / "tokenizer.json").read_text())
    renamed = {f"@{token}": index for token, index in document["model"]["vocab"].items()}
    document["model"] |= {"vocab": renamed, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(MergeError, match="share only 0 of 398 tokens"):
        prepare("cpt + 1 * (other - base)", family.folders | {"other": folder})


def test_a_mixture_keeps_the_chat_template_of_the_model_that_has_one(family, tmp_path):
    _, decisions = merged(family.folders, "slerp(base, instruct, t=0.3)", tmp_path / "out")
    template = "chat_template.jinja"
    assert (tmp_path / "out" / template).read_bytes() == (family.folders["instruct"] / template).read_bytes()
    assert decisions["special_from"] is None
    assert decisions["warnings"] == [
        "'base' has no chat template; template, stop tokens and generation settings are those of 'instruct'"
    ]
    merged(family.folders, "0.5 * base + 0.5 * cpt", tmp_path / "none")
    assert not (tmp_path / "none" / template).exists()
