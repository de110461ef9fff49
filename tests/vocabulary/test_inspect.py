"""What is said of a tokenizer, against numbers worked out by hand, and of an expansion, against that expansion."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.coverage import coverage, renyi_efficiency, token_bytes, whole_words
from adapt.vocabulary.expansion import Growth, expand
from adapt.vocabulary.inspect import ModelSize, advice, inspect, readable
from adapt.vocabulary.splice import core_of
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def document(request) -> dict:
    if request.param == "byte level":
        return json.loads(make_tokenizer(ENGLISH).backend_tokenizer.to_str())
    return document_of(trained(ENGLISH))


@pytest.fixture(scope="module")
def found(document):
    held_out = {"uk": UKRAINIAN[:5], "again": UKRAINIAN[2:4]}
    return inspect(document, UKRAINIAN, held_out, {"en": ENGLISH[:5]}, (10, 40, 20), ModelSize(400, 64, False))


def test_renyi_efficiency():
    assert renyi_efficiency([7] * 16, 16) == pytest.approx(1)
    assert renyi_efficiency([7] * 4, 16) == pytest.approx(0.5)
    collision = -math.log(0.75**2 + 0.25**2)
    assert renyi_efficiency([3, 1], 100, alpha=2) == pytest.approx(collision / math.log(100))
    assert renyi_efficiency([], 100) == 0


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.sampled_from("aбї漢😀 ,e"), min_size=1, max_size=20))
def test_the_bytes_of_the_tokens_are_those_of_the_text(document, text):
    spelled = token_bytes(document)
    content = b"".join(spelled[index] for index in core_of(document).encode(text, add_special_tokens=False).ids)
    assert content.decode() in (text, f" {text}")  # SentencePiece puts a space before it


def test_measures_by_hand():
    document = json.loads(make_tokenizer(ENGLISH).backend_tokenizer.to_str())
    measures = coverage(document, ["ї ї the", "the"])
    tokens = [0xD1, 0x97, " ", 0xD1, 0x97, " the", "th", "e"]
    encoded = [len(core_of(document).encode(text).ids) for text in ("ї ї the", "the")]
    assert sum(encoded) == measures["tokens"]
    assert encoded[0] == 6
    assert measures["bytes"] == 12
    assert measures["fertility"] == sum(encoded) / 4
    assert measures["bytes_per_token"] == 12 / sum(encoded)
    assert measures["inside_characters"] == 4 / sum(encoded)
    assert measures["characters_per_token"] == 10 / sum(encoded)
    assert len(tokens) >= 6


def test_whole_words_stand_without_their_punctuation(document):
    core = core_of(document)
    assert whole_words(core, ["(the)", "«the», the!"]) == 1
    assert whole_words(core, ["the Столиця — … the"]) == pytest.approx(2 / 3)
    assert whole_words(core, ["—"]) == 0


def test_expansions_are_what_such_an_expansion_gives(document, found):
    target = [*UKRAINIAN[:5], *UKRAINIAN[2:4]]
    assert [step.pieces for step in found.expansions] == [10, 20, 40]
    for step in found.expansions:
        grown = expand(document, Growth(step.pieces, drop_unused=False), UKRAINIAN, target)
        base, after = (
            sum(len(core.encode(text, add_special_tokens=False).ids) for text in target)
            for core in (grown.base, grown.tokenizer)
        )
        assert step.saving == pytest.approx(1 - after / base)
        assert step.bytes_per_token == pytest.approx(sum(len(text.encode()) for text in target) / after)
        assert step.parameters == 2 * 64 * step.pieces
        assert step.savings["en"] == pytest.approx(0, abs=0.05)
    assert found.embeddings == 2 * 64 * 400
    assert found.curve[0] == [0, 0]
    assert found.curve[-1] == [40, pytest.approx(found.expansions[-1].saving)]
    assert list(found.texts) == ["uk", "again", "en"]
    json.dumps(found.to_dict())


def test_missing_pieces_are_readable_and_ordered(document, found):
    saved = [piece.saved for piece in found.useful]
    assert saved == sorted(saved, reverse=True)
    lengths = [len(piece.text) for piece in found.longest]
    assert lengths == sorted(lengths, reverse=True)
    assert all("\ufffd" not in piece.text and len(piece.now) > 1 for piece in (*found.useful, *found.longest))
    assert any(piece.text.strip().isalpha() and piece.text.strip() > "а" for piece in found.useful)


def test_parts_of_characters_are_written_in_hexadecimal():
    assert readable(b"a\xd0") == "a<D0>"
    assert readable("їж".encode()[1:]) == "<97>ж"
    assert readable("漢".encode()) == "漢"


@pytest.mark.parametrize(
    ("totals", "size", "most", "said"),
    [
        (
            [1000, 990, 900],
            2,
            2,
            "skip the expansion: 2 pieces would save only 10% of the tokens (less than 15%); the tokenizer knows this "
            "text already",
        ),
        (
            [1000, 500, 490],
            1,
            2,
            "add 1 pieces: they save 50% of the tokens; twice as many would save less than 5% more",
        ),
        (
            [1000, 700, 500],
            2,
            9,
            "add 2 pieces: they save 50% of the tokens; the corpus has no more, a larger one might",
        ),
        (
            [1000, 700, 500],
            2,
            2,
            "add 2 pieces or more: they save 50% of the tokens, and larger sizes still pay; look at them with --sizes",
        ),
    ],
)
def test_advice(totals, size, most, said):
    assert advice(totals, size, most) == said


def test_no_text_is_an_error(document):
    with pytest.raises(AdaptError, match="'uk' holds no text to measure on; give more of it"):
        inspect(document, UKRAINIAN, {"uk": [" "]})
