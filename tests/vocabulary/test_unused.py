"""Pieces that never occur in held-out text are dropped, and what is left cuts it as before."""

from __future__ import annotations

import json

import pytest

from adapt.errors import AdaptError
from adapt.vocabulary import expansion
from adapt.vocabulary.expansion import Growth, expand
from adapt.vocabulary.invariants import parts_of
from adapt.vocabulary.learning import Piece
from adapt.vocabulary.unused import needed
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained

HELD_OUT = UKRAINIAN[:2]
BASES = {
    "bytes": lambda: json.loads(make_tokenizer(ENGLISH).backend_tokenizer.to_str()),
    "sentencepiece": lambda: document_of(trained(ENGLISH)),
}


@pytest.fixture(scope="module", params=list(BASES))
def base(request):
    return BASES[request.param]()


def test_every_piece_that_is_left_occurs_or_is_a_step_of_one_that_does(base):
    free = expand(base, Growth(150, drop_unused=False), UKRAINIAN, HELD_OUT)
    left = expand(base, Growth(150, drop_unused=True), UKRAINIAN, HELD_OUT)
    assert 10 < len(left.pieces) < len(free.pieces)
    assert left.ids == list(range(free.ids[0], free.ids[0] + len(left.pieces)))
    occurring = {index for text in HELD_OUT for index in left.tokenizer.encode(text).ids}
    steps = {index: piece.made_of for index, piece in zip(left.ids, left.pieces, strict=True)}
    reached, todo = set(), list(occurring & set(left.ids))
    while todo:
        index = todo.pop()
        reached.add(index)
        todo += [side for side in steps[index] if side in steps]
    assert reached == set(left.ids)
    for text in HELD_OUT:
        assert left.tokenizer.encode(text).tokens == free.tokenizer.encode(text).tokens
    named = {piece.string: parts_of(free.pieces)[piece.id] for piece in free.pieces}
    assert all(parts_of(left.pieces)[piece.id] == named[piece.string] for piece in left.pieces)


def test_it_is_done_by_itself_where_the_held_out_text_is_large(base, monkeypatch):
    free = expand(base, Growth(150), UKRAINIAN, HELD_OUT)
    monkeypatch.setattr(expansion, "_LARGE", sum(len(text.encode()) for text in HELD_OUT))
    assert len(expand(base, Growth(150), UKRAINIAN[:10], HELD_OUT).pieces) < len(free.pieces)
    assert len(expand(base, Growth(150), UKRAINIAN * 2, HELD_OUT).pieces) == len(free.pieces)  # under a tenth


def test_nothing_left_is_an_error(base):
    with pytest.raises(AdaptError) as error:
        expand(base, Growth(20, drop_unused=True), UKRAINIAN, ["The euro."], name="some/model")
    assert str(error.value) == (
        "none of the 20 new pieces for 'some/model' occurs in the held-out text, so all would be dropped; give "
        "held-out text of the corpus's language or set drop_unused to false"
    )


def test_needed_follows_steps_and_closes_gaps():
    pieces = [
        Piece(10, 1, 2, "ab", 9, 0),
        Piece(11, 3, 4, "cd", 8, 0),
        Piece(12, -1, -1, "é", 7, 0, (5, 6)),
        Piece(13, 11, 12, "cdé", 6, 1),
    ]
    assert needed(pieces, {13}) == [
        Piece(10, 3, 4, "cd", 8, 0),
        Piece(11, -1, -1, "é", 7, 0, (5, 6)),
        Piece(12, 10, 11, "cdé", 6, 1),
    ]
    assert needed(pieces, ()) == []
