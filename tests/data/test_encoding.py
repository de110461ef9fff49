"""Documents as tokens: the tokenizer's own separators, each exactly once."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from adapt.data.encoding import Separators, encode_texts, own_additions, tokenizer_hash
from adapt.errors import AdaptError
from tests.conftest import ENGLISH, make_tokenizer


@pytest.fixture
def plain():
    return make_tokenizer(ENGLISH)


@pytest.fixture
def with_bos(plain):
    """A tokenizer that begins every text with a token of its own, as those of Llama and Gemma do."""
    plain.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 4)]
    )
    return plain


def test_end_of_text_is_added_and_counted(plain):
    encoded = encode_texts(plain, Separators.of(plain), ["week", "день"])
    assert [item.ids for item in encoded] == [[*plain("week")["input_ids"], 0], [*plain("день")["input_ids"], 0]]
    assert [(item.bytes, item.separators) for item in encoded] == [(4, 1), (8, 1)]


def test_a_beginning_is_kept_where_the_tokenizer_has_one(with_bos):
    assert own_additions(with_bos) == ((4,), ())
    (encoded,) = encode_texts(with_bos, Separators.of(with_bos), ["week"])
    assert encoded.ids == [*with_bos("week")["input_ids"], 0]
    assert encoded.ids[0] == 4
    assert encoded.separators == 2


def test_an_end_that_the_tokenizer_adds_is_not_doubled(plain):
    plain.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    (encoded,) = encode_texts(plain, Separators.of(plain), ["week"])
    assert encoded.ids == plain("week")["input_ids"]


def test_separators_that_stand_in_the_text_are_not_doubled(with_bos):
    encoded = encode_texts(with_bos, Separators.of(with_bos), ["<|system|>week", "week<|endoftext|>", "week"])
    assert encoded[0].ids == encoded[1].ids == encoded[2].ids
    assert [item.separators for item in encoded] == [1, 1, 2]


def test_without_an_end_of_text_documents_cannot_be_told_apart(plain):
    plain.eos_token = None
    with pytest.raises(AdaptError, match="has no eos_token"):
        Separators.of(plain)


def test_hash_follows_what_decides_the_tokens_and_nothing_else(plain):
    before = tokenizer_hash(plain)
    plain(["a", "b c"], padding=True, truncation=True, max_length=1)
    assert tokenizer_hash(plain) == before
    plain.chat_template = "other"
    assert tokenizer_hash(plain) != before
    assert tokenizer_hash(make_tokenizer(ENGLISH)) == before
    assert tokenizer_hash(make_tokenizer(ENGLISH, 320)) != before
