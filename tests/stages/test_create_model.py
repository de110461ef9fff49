"""A model from nothing: deterministic, every byte has a piece, digits stand alone, documents begin with a token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.data.sources import Files
from adapt.stages.create_model import Architecture, CreateModel, TokenizerSettings, draw_model, learn_tokenizer
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN

SETTINGS = TokenizerSettings(corpus={"en": 0.75, "uk": 0.25}, size=400, chat_template=CHAT_TEMPLATE)
SMALL = Architecture(hidden_size=32, layers=2, heads=4, key_value_heads=2, intermediate_size=64, context=64)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, lines in (("en", ENGLISH), ("uk", UKRAINIAN)):
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {name: Files(files=str(folder / f"{name}.txt"), held_out=0) for name in ("en", "uk")}


@pytest.fixture(scope="module")
def tokenizer(sources):
    return learn_tokenizer(SETTINGS, sources)


def test_the_same_sources_give_the_same_tokenizer_and_model(sources, tokenizer):
    again = learn_tokenizer(SETTINGS, sources)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    first, second = (draw_model(SMALL, tokenizer, seed=5).state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
    assert (
        not draw_model(SMALL, tokenizer, seed=6)
        .state_dict()["model.embed_tokens.weight"]
        .equal(first["model.embed_tokens.weight"])
    )


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_are_pieces_of_their_own_and_documents_begin_with_the_end_token(tokenizer):
    ids = tokenizer("In 1234567 ways")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert [piece for piece in tokenizer.convert_ids_to_tokens(ids) if piece.isdigit()] == list("1234567")


def test_chat_tokens_are_single_and_known_to_the_template(tokenizer):
    message = [{"role": "user", "content": "12"}]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "1", "2", "<|end|>", "<|assistant|>"]


def test_what_does_not_fit_is_said_before_anything_runs():
    stage = CreateModel(
        kind="create_model",
        tokenizer={"corpus": {"en": 0.5, "uk": 0.4}},
        architecture={"hidden_size": 100, "heads": 6, "key_value_heads": 4},
    )
    messages = [complaint.message for complaint in stage.complaints({})]
    assert messages == [
        "the shares sum to 0.9; they must sum to 1",
        "6 heads do not divide 100",
        "4 key and value heads do not divide 6 heads",
    ]
