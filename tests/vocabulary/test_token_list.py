"""Given tokens as pieces with real merges, on byte-level BPE and SentencePiece, and as special tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.splice import core_of
from adapt.vocabulary.token_list import add_pieces, add_special
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained


@pytest.fixture(scope="module")
def byte_level() -> dict:
    return json.loads(make_tokenizer(ENGLISH).backend_tokenizer.to_str())


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def document(request, byte_level) -> dict:
    return byte_level if request.param == "byte level" else document_of(trained(ENGLISH))


def tokens_of(document: dict, text: str) -> list[str]:
    return core_of(document).encode(text, add_special_tokens=False).tokens


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.text("абвгdef漢", min_size=2, max_size=7), min_size=1, max_size=6),
    text=st.text("абвгdef漢 ,", max_size=40),
)
def test_each_token_is_one_piece_where_it_is_the_word_and_other_text_stays(byte_level, tokens, text):
    spaced = [f" {token}" for token in tokens]
    found = add_pieces(byte_level, [*tokens, *spaced], ())
    base, grown = core_of(byte_level), core_of(found.revision.document)
    for token in {*tokens, *spaced} - set(found.skipped):
        assert len(grown.encode(token).ids) == 1, token
    parts = dict(zip(found.revision.ids, found.revision.parts, strict=True))
    ids = grown.encode(text).ids
    assert [part for index in ids for part in parts.get(index, (index,))] == base.encode(text).ids
    assert grown.decode(ids) == text


def test_words_of_either_format(document):
    found = add_pieces(document, ["четвер", "Париж", "fortieth"], [*UKRAINIAN, "a fortieth"], UKRAINIAN[:5])
    grown = found.revision.document
    assert found.skipped == {}
    for sentence, word in (("був четвер", "четвер"), ("Столиця Париж", "Париж"), ("the fortieth", "fortieth")):
        assert tokens_of(grown, sentence)[-1] == found.revision.tokens[_place(found, grown, word)]
    for text in ENGLISH[:5]:
        assert tokens_of(grown, text) == tokens_of(document, text)


def _place(found, grown: dict, word: str) -> int:
    """Which of the new tokens is the word after a space."""
    core = core_of(grown)
    spelled = [core.decode([index]) for index in found.revision.ids]
    return max(place for place, text in enumerate(spelled) if text.strip() == word)


def test_the_form_after_a_space_comes_where_the_corpus_has_it(byte_level):
    with_it = add_pieces(byte_level, ["Париж"], ["Столиця Парижа"]).revision
    without = add_pieces(byte_level, ["Париж"], ["Парижа столиця"]).revision
    assert [len(tokens_of(with_it.document, word)) for word in ("Париж", " Париж")] == [1, 1]
    assert [len(tokens_of(without.document, word)) for word in ("Париж", " Париж")] == [1, 2]


def test_steps_are_shared_and_counted(byte_level):
    found = add_pieces(byte_level, ["zzyx", "zzyxq"], ())
    assert (found.steps, len(found.revision.ids)) == (2, 4)


def test_what_is_skipped(byte_level):
    found = add_pieces(byte_level, [" the", "Київ", "<|end|>x"[7:] + "yz"], ())
    assert found.skipped == {" the": "a piece already"}


def test_a_token_with_digits_where_the_tokenizer_does_not_split_them():
    tokenizer = make_tokenizer(ENGLISH).backend_tokenizer
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    document = json.loads(tokenizer.to_str())
    found = add_pieces(document, ["x86_64"], ())
    assert len(tokens_of(found.revision.document, "x86_64")) == 1


def test_a_token_that_would_need_an_unreachable_piece_is_skipped(byte_level):
    """`qz` is a piece of the base that no merge makes: a merge that makes it now could set off old ones."""
    model = byte_level["model"]
    crafted = byte_level | {"model": model | {"vocab": model["vocab"] | {"qz": len(model["vocab"])}}}
    found = add_pieces(crafted, ["qz", "zq"], ())
    assert found.skipped == {"qz": "a piece already"}
    assert found.revision.tokens == ["zq"]


def test_refusals(byte_level):
    with pytest.raises(AdaptError) as error:
        add_pieces(byte_level, ["New York"], (), name="tiny")
    assert str(error.value) == (
        "the token 'New York' cannot become one piece: the tokenizer cuts text into words first, and this into 'New' "
        "and ' York'; give its words one by one, or set special: true"
    )
    with pytest.raises(AdaptError) as error:
        add_pieces(byte_level, [" the", " is"], (), name="tiny")
    assert str(error.value) == "none of the 2 tokens can be added to 'tiny'; ' the': a piece already"
    with pytest.raises(AdaptError, match="all of the 1 tokens are in the vocabulary of 'tiny' already"):
        add_special(byte_level, ["<|end|>"], "tiny")


def test_special_tokens_are_found_first(document):
    found = add_special(document, ["<|call|>", "<|call|>", "New York"])
    grown = found.revision.document
    assert found.revision.tokens == ["<|call|>", "New York"]
    assert tokens_of(grown, "in New York")[-1] == "New York"
    for token, parts in zip(found.revision.tokens, found.revision.parts, strict=True):
        assert list(parts) == core_of(document).encode(token, add_special_tokens=False).ids
    for text in (*ENGLISH[:5], *UKRAINIAN[:5]):
        assert tokens_of(grown, text) == tokens_of(document, text)
