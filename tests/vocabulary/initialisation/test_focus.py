"""FOCUS (methods F: A-15)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.focus import Focus, sparsemax
from adapt.vocabulary.vectors import texts_of
from tests.vocabulary.initialisation.bijection import WORDS, Case, random_rows, sentences, write_vectors

CASE = Case()
INIT = Focus(dimension=16, epochs=1, min_count=2)


def projected(scores: list[float]) -> list[float]:
    """The simplex projection by bisection on the threshold: nothing is sorted."""
    low, high = min(scores) - 1, max(scores)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(x - middle, 0) for x in scores) > 1 else (low, middle)
    return [max(x - low, 0) for x in scores]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_sparsemax_is_the_projection_onto_the_simplex(scores):
    found = sparsemax(torch.tensor([scores, scores[::-1]], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx(projected(scores), abs=1e-9)
    assert found[1].tolist() == pytest.approx(projected(scores[::-1]), abs=1e-9)


def test_sparsemax_by_hand():
    assert sparsemax(torch.tensor([[0.5, 0.3, -1.0], [3.0, 0.0, 0.0]])).tolist() == [
        pytest.approx([0.6, 0.4, 0.0]),
        [1.0, 0.0, 0.0],
    ]


def test_the_same_text_is_copied_and_everything_else_is_convex():
    same = [CASE.new.get_vocab()[token] for token in (".", "5")]
    ids = [*CASE.ids, *same]
    new = CASE.rows(ids=ids)
    weights = INIT.rows(torch.eye(CASE.height), new)
    assert torch.equal(weights[-2:], torch.eye(CASE.height)[[CASE.old.get_vocab()[token] for token in (".", "5")]])
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(len(ids)), atol=1e-5)
    assert INIT.refine({"input": new})["input_coverage"] == {"found": len(WORDS), "copied": 2, "fallback": 0}


def test_only_pieces_that_the_corpus_shows_are_neighbours():
    weights = INIT.rows(torch.eye(CASE.height), CASE.rows())
    counts = CASE.evidence().new_counts
    assert (counts[weights.sum(0) > 0] >= 2).all()


def test_both_sides_share_the_weights_and_keep_their_own_matrix():
    evidence = CASE.evidence()
    matrices = [random_rows(CASE.height, 5, seed) for seed in (1, 2)]
    weights = INIT.rows(torch.eye(CASE.height), CASE.rows("input", evidence=evidence))
    for side, matrix in zip(("input", "output"), matrices, strict=True):
        rows = INIT.rows(matrix, CASE.rows(side, evidence=evidence))
        assert torch.allclose(rows, weights @ matrix, atol=1e-5)


def test_deterministic_in_the_seed():
    first, again, other = (INIT.rows(torch.eye(CASE.height), CASE.rows(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pieces_that_are_too_rare_fall_back():
    case = Case(texts=CASE.texts[:1])
    seen = [index for index in case.ids if case.evidence().new_counts[index]]
    new = case.rows()
    init = Focus(dimension=8, epochs=1, min_count=1, without_vector="mean_of_pieces")
    report = init.refine({"input": new})
    assert 0 < len(seen) < len(WORDS)
    assert report["input_coverage"]["fallback"] == len(WORDS) - len(seen)
    rows = init.rows(torch.eye(case.height), new)
    for index, row, piece in zip(case.ids, rows, new.pieces, strict=True):
        assert index in seen or set(row.nonzero().flatten().tolist()) == set(piece)


def test_given_vectors_are_used(tmp_path):
    matrix = random_rows(len(WORDS), 6)
    words = [*(text.strip() for text in texts_of(CASE.ids, CASE.new)), *WORDS]
    path = write_vectors(tmp_path / "both.vec", words, torch.cat([matrix, matrix]) * 3)
    init = Focus(vectors=path)
    weights = init.rows(torch.eye(CASE.height), CASE.rows(ordinary=torch.tensor(sorted(CASE.twins))))
    assert weights.argmax(1).tolist() == CASE.twins
    assert [str(file) for file in init.files()] == [path]


def test_a_corpus_without_old_pieces_is_one_line():
    case = Case(texts=sentences(3))
    other = case.rows(ordinary=torch.tensor(case.twins[:2]))
    other.evidence.texts = [" ".join(texts_of(case.ids, case.new)) * 9]
    with pytest.raises(AdaptError) as caught:
        Focus(min_count=3, dimension=4).rows(torch.eye(case.height), other)
    assert str(caught.value) == (
        "focus finds no old piece with a vector in the corpus to make new rows of; give more text or a lower min_count"
    )
