"""Leaf-based pruning and closing up ids, on byte-level BPE and on SentencePiece, under random text and amounts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import RobertaProcessing, Sequence, TemplateProcessing

from adapt.errors import AdaptError
from adapt.vocabulary.pruning import how_many, prunable, pruned, usage_of_pieces
from adapt.vocabulary.renumbering import check_kept_text, check_round_trip, closed_up
from adapt.vocabulary.splice import core_of
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained

WORDS = sorted({word for line in ENGLISH for word in line.split()})
TEXT = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=12).map(" ".join)


@pytest.fixture(scope="module", params=["byte level", "whole words first", "sentencepiece"])
def document(request) -> dict:
    if request.param == "byte level":
        return json.loads(make_tokenizer(ENGLISH, 420).backend_tokenizer.to_str())
    if request.param == "whole words first":  # as Llama-3: a word that is a piece is taken whole, merges or not
        found = json.loads(make_tokenizer(ENGLISH, 420).backend_tokenizer.to_str())
        words = {"Ġthat": 420, "seventh": 421}
        return found | {"model": found["model"] | {"ignore_merges": True, "vocab": found["model"]["vocab"] | words}}
    return document_of(trained(ENGLISH))


def free_in(document: dict) -> set[int]:
    return prunable(document, set(document["model"]["vocab"].values()), ())


@settings(max_examples=40, deadline=None)
@given(seen=st.lists(TEXT, max_size=3), limit=st.integers(0, 200), texts=st.lists(TEXT, min_size=1, max_size=4))
def test_text_of_kept_pieces_is_cut_as_before_and_all_text_comes_back(document, seen, limit, texts):
    base = core_of(document)
    gone = pruned(document, free_in(document), usage_of_pieces(document, seen), limit, False)
    after, order = closed_up(document, gone)
    core = core_of(after)
    assert len(gone) <= limit
    check_kept_text(base, core, order, gone, [*texts, *ENGLISH[:5]])
    check_round_trip(base, core, texts)
    assert sorted(core.get_vocab(with_added_tokens=True).values()) == list(range(len(order)))
    for token, index in core.get_vocab(with_added_tokens=True).items():
        assert base.token_to_id(token) == order[index]


@settings(max_examples=20, deadline=None)
@given(seen=st.lists(TEXT, min_size=1, max_size=4))
def test_unused_pieces_never_change_the_text_that_was_seen(document, seen):
    base = core_of(document)
    gone = pruned(document, free_in(document), usage_of_pieces(document, seen), 10**6, True)
    after, order = closed_up(document, gone)
    for text in seen:
        ids = base.encode(text, add_special_tokens=False).ids
        assert [order[index] for index in core_of(after).encode(text, add_special_tokens=False).ids] == ids


def test_nothing_that_a_kept_merge_is_built_from_goes(document):
    gone = pruned(document, free_in(document), Counter(), 30, True)
    after, _ = closed_up(document, gone)
    core, base = core_of(after), core_of(document)
    kept = set(core.get_vocab(with_added_tokens=False))
    for piece in kept:
        before = [base.id_to_token(token.id) for token in base.model.tokenize(piece)]
        if set(before) <= kept:
            assert [core.id_to_token(token.id) for token in core.model.tokenize(piece)] == before


def test_everything_that_may_go_goes_in_the_end(document):
    free = free_in(document)
    assert pruned(document, free, Counter(), 10**6, True) == free
    after, _ = closed_up(document, free)
    assert after["model"]["merges"] == []
    check_round_trip(core_of(document), core_of(after), [*UKRAINIAN[:5], *ENGLISH[:5]])


def test_the_least_used_go_first_and_their_parts_take_over_their_uses():
    """`abc` is used 3 times and built on `ab`, which then stands there: so `cd`, used 4 times, goes before `ab`."""
    document = {
        "added_tokens": [],
        "model": {
            "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "abc": 5, "cd": 6, "dd": 7},
            "merges": [["a", "b"], "ab c", ["c", "d"], ["d", "d"]],
        },
    }
    counts = Counter({4: 2, 5: 3, 6: 4, 7: 9})
    steps = [pruned(document, {4, 5, 6, 7}, counts, limit, False) for limit in range(5)]
    assert steps == [frozenset(), {5}, {5, 6}, {4, 5, 6}, {4, 5, 6, 7}]
    assert pruned(document, {4, 5, 6, 7}, counts, 4, True) == frozenset()


def test_what_is_never_given_up(document):
    free = free_in(document)
    by_id = {index: piece for piece, index in document["model"]["vocab"].items()}
    assert free
    assert not any(piece in by_id[index] for index in free for piece in ("<|", "<0x", "<s>", "<unk>"))
    assert all(len(by_id[index]) > 1 or ord(by_id[index]) > 255 for index in free)
    one = min(free)
    assert one not in prunable(document, free, [one])


def test_how_many():
    assert how_many(7, 1000) == 7
    assert how_many(0.25, 1000) == 250
    assert how_many("unused", 1000) == 1000


def test_ids_in_post_processor_and_padding_follow():
    tokenizer = make_tokenizer(ENGLISH).backend_tokenizer
    end, pad = tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<|pad|>")
    tokenizer.add_special_tokens(["<|last|>"])
    last = tokenizer.token_to_id("<|last|>")
    template = TemplateProcessing(single="<|last|> $A <|end|>", special_tokens=[("<|last|>", last), ("<|end|>", end)])
    tokenizer.post_processor = Sequence([template])
    tokenizer.enable_padding(pad_id=pad, pad_token="<|pad|>")
    document = json.loads(tokenizer.to_str())
    gone = pruned(document, free_in(document), Counter(), 50, True)
    after = core_of(closed_up(document, gone)[0])
    ids = after.encode("the week").ids
    assert (ids[0], ids[-1]) == (last - 50, end)
    assert after.decode(ids, skip_special_tokens=False) == "<|last|>the week<|end|>"
    tokenizer.post_processor = RobertaProcessing(("<|last|>", last), ("<|end|>", end))
    after = core_of(closed_up(json.loads(tokenizer.to_str()), gone)[0])
    assert after.encode("a").ids[-1] == last - 50


def test_special_tokens_do_not_go(document):
    index = document["added_tokens"][0]["id"]
    with pytest.raises(AdaptError, match=r"the special token '<.*' cannot be taken out of the vocabulary"):
        closed_up(document, {index})


def test_a_change_that_cuts_text_anew_is_found():
    before = core_of(json.loads(make_tokenizer(ENGLISH, 420).backend_tokenizer.to_str()))
    other: Tokenizer = core_of(json.loads(make_tokenizer(UKRAINIAN, 420).backend_tokenizer.to_str()))
    order = list(range(420))
    with pytest.raises(AdaptError, match="without the tokens taken out, this text is cut in other places: 'The number"):
        check_kept_text(before, other, order, (), ENGLISH[:1])
