"""The expand_vocabulary stage on real checkpoints: what it writes, measures, checks and refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import bits_per_byte
from adapt.stages.expand_vocabulary import ExpandVocabulary
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.distil import Distil
from tests.conftest import CHAT_TEMPLATE, UKRAINIAN, make_model
from tests.stages.workshop import (
    qwen_tokenizer,
)


@pytest.fixture
def run(grow):
    """Grow by 40 pieces unless told otherwise."""
    return lambda model, **settings: grow(model, **({"add": 40} | settings))


def test_what_it_writes(run, tiny_model_folder, texts):
    metrics, folder, screen = run(tiny_model_folder, general="general", init={"method": "convex_hull"})
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    base = AutoTokenizer.from_pretrained(tiny_model_folder)
    size = len(base)
    assert (metrics["base_size"], metrics["new_size"], metrics["added"]) == (size, size + 40, 40)
    assert len(tokenizer) == size + 40 == model.get_input_embeddings().weight.shape[0] == metrics["rows"]
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.special_tokens_map == base.special_tokens_map
    old, new = load_file(tiny_model_folder / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(new[name][: len(tensor)], tensor) for name, tensor in old.items())
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary == json.loads((folder / "model" / "adapt_vocabulary.json").read_text(encoding="utf-8"))
    assert vocabulary["base_size"] == size
    assert vocabulary["new_ids"] == list(range(size, size + 40))
    assert tokenizer.convert_ids_to_tokens(vocabulary["new_ids"]) == vocabulary["new_tokens"]
    for token, parts in vocabulary["pieces"].items():
        assert "".join(base.convert_ids_to_tokens(parts)) == token
    assert metrics["reload_difference"] == 0
    assert metrics["after"]["fertility"] < metrics["before"]["fertility"]
    assert "40 pieces added: fertility" in screen
    assert "warning" not in screen


def test_bits_per_byte_before_and_after_are_those_of_the_checkpoints(run, tiny_model_folder, texts):
    from adapt.data.sources import held_out_documents

    metrics, folder, _ = run(tiny_model_folder, general="general")
    for name in ("target", "general"):
        read = [document["text"] for document in held_out_documents(texts[name])]
        for when, path in (("before", tiny_model_folder), ("after", folder / "model")):
            model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
            assert metrics["step0"][name][when] == pytest.approx(bits_per_byte(model, tokenizer, read).value)
    assert metrics["step0"]["target"]["after"] < metrics["step0"]["target"]["before"]


def test_the_same_bytes_again(run, tiny_model_folder, tmp_path):
    def content(folder):
        return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir())}

    _, folder, _ = run(tiny_model_folder, init="convex_hull")
    first = content(folder)
    (folder / "model" / "model-00001-of-00002.safetensors").write_bytes(b"left by a run that was killed")
    _, folder, _ = run(tiny_model_folder, init="convex_hull")
    assert content(folder) == first


def test_a_tied_model_stays_tied(run, tmp_path, tiny_model_folder):
    source = tmp_path / "tied"
    shutil.copytree(tiny_model_folder, source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    make_model(len(tokenizer) + 10, tied=True).to(torch.bfloat16).save_pretrained(source)
    metrics, folder, _ = run(source, add=5)
    assert metrics["rows"] == len(tokenizer) + 10
    assert set(metrics["init"]["norms"]) == {"tied"}
    weights = load_file(folder / "model" / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_little_to_gain_is_said(run, tiny_model_folder):
    _, _, screen = run(tiny_model_folder, corpus="general", add=2)
    assert "warning: the new pieces save only" in screen


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_families_whose_special_tokens_stand_behind_the_vocabulary(run, tmp_path, kind):
    """As Qwen ships: added tokens outside of the vocabulary, and a matrix that is taller than the tokenizer."""
    tokenizer = qwen_tokenizer()
    config = kind(
        vocab_size=len(tokenizer) + 30,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    metrics, folder, _ = run(tmp_path / "qwen", add=50)
    again = AutoTokenizer.from_pretrained(folder / "model")
    assert again.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [380, 382]
    assert metrics["base_size"] == 383
    assert metrics["rows"] == 433
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    for text in UKRAINIAN[:5]:
        assert again(text)["input_ids"] == raw.encode(text).ids
        assert again.decode(raw.encode(text).ids) == text
    assert metrics["after"]["fertility"] < 0.8 * metrics["before"]["fertility"]


def test_a_loader_that_overrides_the_file_is_an_error(run, tmp_path, tiny_model_folder):
    """transformers builds the pre-tokenizer of model_type qwen2 itself, whatever the file says."""
    source = tmp_path / "qwen"
    shutil.copytree(tiny_model_folder, source)
    tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"tokenizer_class": "Qwen2Tokenizer"}))
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (source / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(AdaptError, match=r"does not read tokenizer\.json as it is written"):
        run(source)


def test_tokens_that_only_the_tokenizer_config_lists(run, tmp_path, tiny_model_folder):
    source = tmp_path / "ghost"
    shutil.copytree(tiny_model_folder, source)
    path = source / "tokenizer_config.json"
    config = json.loads(path.read_text())
    size = len(AutoTokenizer.from_pretrained(source))
    ghost = {"content": "<|ghost|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    config["added_tokens_decoder"] = {str(size): ghost | {"single_word": False}}
    path.write_text(json.dumps(config))
    if AutoTokenizer.from_pretrained(source).convert_tokens_to_ids("<|ghost|>") != size:
        pytest.skip("this version of transformers does not add tokens that only tokenizer_config.json lists")
    metrics, folder, _ = run(source)
    assert metrics["base_size"] == size + 1
    assert AutoTokenizer.from_pretrained(folder / "model").convert_tokens_to_ids("<|ghost|>") == size


def test_no_held_out_text_is_an_error(run, tiny_model_folder):
    with pytest.raises(AdaptError, match="'one' holds no held-out text"):
        run(tiny_model_folder, corpus="one")


def test_settings():
    made = ExpandVocabulary(kind="expand_vocabulary", model="m", corpus=["a", "b"], add="2k", protect="c", general="d")
    assert made.add == 2000
    assert [(reference.path, reference.name) for reference in made.reads().sources] == [
        (("corpus", 0), "a"),
        (("corpus", 1), "b"),
        (("protect", 0), "c"),
        (("general",), "d"),
    ]
    assert made.init == Distil()
    hull = ExpandVocabulary(kind="expand_vocabulary", model="m", corpus="a", add=1, init={"method": "convex_hull"})
    assert hull.init == ConvexHull()
    (complaint,) = made.model_copy(update={"protect": ("a",)}).complaints({})
    assert complaint.path == ("protect",)
    for wrong in ({"add": 0}, {"init": "nearest"}, {"corpus": []}, {"extra": 1}):
        with pytest.raises(ValidationError):
            ExpandVocabulary(**({"kind": "expand_vocabulary", "model": "m", "corpus": "a", "add": 1} | wrong))
