"""Every mode for tokenizers that a loader rebuilds, and for SentencePiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from adapt.errors import AdaptError
from tests.conftest import ENGLISH, UKRAINIAN, make_model
from tests.stages.workshop import (
    assert_kept_rows_are_the_same,
    qwen_tokenizer,
    vocabulary_of,
)
from tests.vocabulary.sentencepieces import document_of, trained


@pytest.mark.parametrize("settings", [{"mode": "replace", "size": 420}, {"add": 30, "prune": "unused"}], ids=str)
def test_a_family_whose_loader_rebuilds_the_tokenizer(grow, tmp_path, settings):
    source, tokenizer = tmp_path / "qwen", qwen_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = tokenizer.eos_token_id
    config = Qwen2Config(vocab_size=len(tokenizer) + 30, num_key_value_heads=2, bos_token_id=None, **size)
    config.eos_token_id = end
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    metrics, folder, _ = grow(source, **settings)
    assert metrics["removed"] > 0
    assert_kept_rows_are_the_same(source, folder / "model", vocabulary_of(folder)["new_tokens"])
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert model.config.eos_token_id == new.eos_token_id == raw.token_to_id("<|endoftext|>") != end
    for text in (*UKRAINIAN[:5], "a<|im_start|>b<|im_end|>"):
        assert new(text)["input_ids"] == raw.encode(text).ids
        assert new.decode(raw.encode(text).ids) == text


@pytest.fixture
def llama(tmp_path) -> Path:
    """A model with a SentencePiece tokenizer, published as Llama-2 was: with its `tokenizer.model`."""
    source, content = tmp_path / "llama", trained(ENGLISH)
    document = document_of(content)
    make_model(len(document["model"]["vocab"])).save_pretrained(source)
    (source / "tokenizer.model").write_bytes(content)
    (source / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return source


@pytest.mark.parametrize(
    "settings",
    [{"add": 40}, {"add": 40, "prune": "unused"}, {"mode": "tokens", "tokens": ["субота", "Париж"], "prune": 30}],
    ids=["expand", "expand and prune", "tokens and prune"],
)
def test_sentencepiece(grow, llama, settings):
    metrics, folder, _ = grow(llama, **settings)
    assert (metrics["removed"] > 0) == ("prune" in settings)
    assert_kept_rows_are_the_same(llama, folder / "model", vocabulary_of(folder)["new_tokens"])
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    slow = SentencePieceProcessor(model_file=str(folder / "model" / "tokenizer.model"))
    assert slow.vocab_size() == metrics["new_size"] == raw.get_vocab_size()
    loaded = AutoTokenizer.from_pretrained(folder / "model")
    for text in (*UKRAINIAN[:5], *ENGLISH[:5]):
        ids = raw.encode(text, add_special_tokens=False).ids
        assert slow.encode(text) == ids == loaded(text, add_special_tokens=False)["input_ids"]
        assert slow.decode(ids) == text


def test_sentencepiece_is_not_replaced(grow, llama):
    with pytest.raises(AdaptError, match=r"cannot replace the vocabulary of '.*': it is SentencePiece"):
        grow(llama, mode="replace", size=500)
