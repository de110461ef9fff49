"""OFA (methods F: A-16)."""

from __future__ import annotations

import pytest
import torch

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.ofa import Ofa, factorised
from adapt.vocabulary.initialisation.wechsel import Wechsel
from tests.vocabulary.initialisation.bijection import WORDS, Case, random_rows, translated, write_vectors

CASE = Case()
WHOLE = torch.tensor(sorted(CASE.twins))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """English words and their translations in one space, side by side."""
    matrix = random_rows(len(WORDS), 8)
    words = [*WORDS, *map(translated, WORDS)]
    near = matrix + 0.01 * random_rows(len(WORDS), 8, 1)
    return write_vectors(tmp_path_factory.mktemp("vectors") / "all.vec", words, torch.cat([matrix, near]))


def test_full_rank_gives_the_matrix_back():
    matrix = random_rows(40, 9)
    coordinates, primitives = factorised(matrix, 9)
    assert coordinates.shape == (40, 9)
    assert torch.allclose(coordinates @ primitives, matrix, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_a_lower_rank_is_the_best_of_its_kind(rank):
    matrix = random_rows(40, 9)
    coordinates, primitives = factorised(matrix, rank)
    error = (coordinates @ primitives - matrix).norm()
    assert error.item() == pytest.approx(torch.linalg.svdvals(matrix)[rank:].norm().item(), rel=1e-4)
    assert torch.allclose(coordinates.T @ coordinates, torch.eye(rank), atol=1e-4)


def test_a_matrix_of_lower_rank_than_asked_for():
    matrix = random_rows(30, 2) @ random_rows(2, 6)
    coordinates, primitives = factorised(matrix, 5)
    assert torch.isfinite(coordinates).all()
    assert torch.allclose(coordinates @ primitives, matrix, atol=1e-4)


def test_at_full_rank_it_is_wechsel_with_these_vectors(vectors):
    matrix = random_rows(CASE.height, 7)
    expected = Wechsel(source_vectors=vectors, target_vectors=vectors).rows(matrix, CASE.rows())
    assert torch.equal(Ofa(vectors=vectors).rows(matrix, CASE.rows()), expected)
    assert torch.allclose(Ofa(vectors=vectors, rank=7).rows(matrix, CASE.rows()), expected, atol=1e-5)


def test_rows_of_a_lower_rank_are_combinations_of_the_truncated_matrix(vectors):
    matrix = random_rows(CASE.height, 7)
    weights = Ofa(vectors=vectors).rows(torch.eye(CASE.height), CASE.rows())
    coordinates, primitives = factorised(matrix, 3)
    rows = Ofa(vectors=vectors, rank=3).rows(matrix, CASE.rows())
    assert torch.allclose(rows, weights @ coordinates @ primitives, atol=1e-5)
    assert torch.linalg.matrix_rank(rows, rtol=1e-4) == 3


def test_one_neighbour_is_the_translation_and_the_same_text_is_copied(vectors):
    ids = [*CASE.ids, CASE.new.get_vocab()["."]]
    matrix = random_rows(CASE.height, 7)
    full_stop = CASE.old.get_vocab()["."]
    new = CASE.rows(ids=ids, ordinary=torch.tensor([*WHOLE, full_stop]))
    init = Ofa(vectors=vectors, neighbours=1, temperature=1e-6)
    assert torch.equal(init.rows(matrix, new), matrix[[*CASE.twins, full_stop]])
    assert init.refine({"input": new}) == {"input_coverage": {"found": len(WORDS), "copied": 1, "fallback": 0}}


def test_a_rank_above_the_width_is_one_line(vectors):
    with pytest.raises(AdaptError) as caught:
        Ofa(vectors=vectors, rank=8).rows(random_rows(CASE.height, 7), CASE.rows())
    assert str(caught.value) == "init.rank is 8, but the embedding is only 7 wide; give at most 7"


def test_missing_vectors_are_one_line():
    with pytest.raises(AdaptError, match=r"^there is no file of static vectors 'no.vec'"):
        Ofa(vectors="no.vec").rows(torch.eye(CASE.height), CASE.rows())
