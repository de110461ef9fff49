"""A vocabulary trained afresh: what stays of the base's tokenizer, what its pieces are, and where rows come from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from adapt.errors import AdaptError
from adapt.vocabulary.renumbering import closed_up, pair_of
from adapt.vocabulary.replacement import mixed, replace_tokenizer, unreachable
from adapt.vocabulary.splice import core_of
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained


@pytest.fixture(scope="module")
def document() -> dict:
    return json.loads(make_tokenizer(ENGLISH).backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def revision(document):
    return replace_tokenizer(document, UKRAINIAN, 400)


@pytest.fixture(scope="module")
def final(revision):
    return closed_up(revision.document, revision.gone)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_text_comes_back_and_the_ids_are_those_of_the_growing_tokenizer(revision, final, text):
    core, order = core_of(final[0]), final[1]
    ids = core.encode(text).ids
    assert core.decode(ids, skip_special_tokens=False) == revision.base.decode(
        revision.base.encode(text).ids, skip_special_tokens=False
    )
    assert [order[index] for index in ids] == core_of(revision.document).encode(text).ids


def test_the_merges_are_those_that_the_library_learns(document, final):
    """Against a trainer that is told nothing of the base but its pre-tokenizer."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = core_of(document).pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=394, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    plain.train_from_iterator(UKRAINIAN, trainer)
    expected = [pair_of(merge) for merge in json.loads(plain.to_str())["model"]["merges"]]
    assert [pair_of(merge) for merge in final[0]["model"]["merges"]] == expected
    assert len(final[1]) == 400


def test_all_but_the_pieces_is_the_bases(document, final):
    for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        assert final[0][key] == document[key]
    assert [token | {"id": 0} for token in final[0]["added_tokens"]] == [
        token | {"id": 0} for token in document["added_tokens"]
    ]


def test_overlap_by_string_and_parts_by_the_old_merges(document, revision):
    base = revision.base
    kept = set(base.get_vocab()) & set(core_of(closed_up(revision.document, revision.gone)[0]).get_vocab())
    gone = {base.id_to_token(index) for index in revision.gone}
    assert kept | gone == set(base.get_vocab())
    assert not kept & gone
    assert not set(revision.tokens) & set(base.get_vocab())
    for token, parts, pair in zip(revision.tokens, revision.parts, revision.merges, strict=True):
        assert list(parts) == [found.id for found in base.model.tokenize(token)]
        assert len(pair) == 2


def test_the_same_again(document, revision):
    assert replace_tokenizer(document, UKRAINIAN, 400).document == revision.document


def test_every_piece_can_be_reached(revision):
    assert unreachable(revision) == 0


def test_special_tokens_in_the_text_are_no_text(document):
    noisy = [f"<|user|>{line}<|end|>" for line in UKRAINIAN]
    assert replace_tokenizer(document, noisy, 400).document == replace_tokenizer(document, UKRAINIAN, 400).document


@settings(max_examples=20, deadline=None)
@given(
    target=st.lists(st.sampled_from(("a", "bb", "abababab")), min_size=3, max_size=20),
    share=st.sampled_from((0, 0.1, 0.25, 0.5, 0.9)),
)
def test_general_text_in_its_share(target, share):
    found = list(mixed(target, ("c" * 4 for _ in range(500)), share))
    assert [text for text in found if "c" not in text] == target
    general = sum(4 for text in found if "c" in text)
    whole = sum(map(len, found))
    assert share * whole <= general < share * whole + 4 or general == share


def test_general_text_may_run_out():
    assert list(mixed(["aaaa", "bbbb"], ["c"], 0.5)) == ["aaaa", "c", "bbbb"]


def test_refusals(document):
    with pytest.raises(AdaptError) as error:
        replace_tokenizer(document, UKRAINIAN, 261, name="tiny")
    assert str(error.value) == (
        "a vocabulary of 261 cannot replace that of 'tiny': 256 bytes and 6 special tokens alone are 262; give a "
        "larger size"
    )
    with pytest.raises(AdaptError, match="cannot replace the vocabulary of 'llama': it is SentencePiece"):
        replace_tokenizer(document_of(trained(ENGLISH)), UKRAINIAN, 500, name="llama")
