"""Means and convex combinations of pieces as functions on tensors (methods F: A-12, A-13, A-24)."""

from __future__ import annotations

import pytest
import torch

from adapt.vocabulary.initialisation import NewRows
from adapt.vocabulary.initialisation.convex_hull import ConvexHull, convex_hull
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces, mean_of_pieces

KINDS = (MeanOfPieces, ConvexHull)
PIECES = [(3, 5), (7, 7, 1), (0,), (2, 4, 6, 8)]
MATRIX = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


def all_rows(dtype=torch.float32, seed=0):
    new = NewRows(PIECES, torch.arange(9), "input", seed)
    return {kind.__name__: kind().rows(MATRIX.to(dtype), new) for kind in KINDS}


def test_mean_of_pieces():
    rows = mean_of_pieces(MATRIX, PIECES)
    assert torch.allclose(rows[0], (MATRIX[3] + MATRIX[5]) / 2)
    assert torch.allclose(rows[1], (2 * MATRIX[7] + MATRIX[1]) / 3)
    assert torch.equal(rows[2], MATRIX[0])


def test_a_mean_row_has_the_mean_of_its_pieces_logits():
    hidden = torch.randn(20, 6)
    old, new = hidden @ MATRIX.T, hidden @ mean_of_pieces(MATRIX, PIECES).T
    assert torch.allclose(new[:, 1], (2 * old[:, 7] + old[:, 1]) / 3, atol=1e-6)


def test_convex_hull_rows_are_convex_combinations():
    """Planted basis: with the unit matrix as embeddings a row shows its own weights."""
    rows = convex_hull(torch.eye(9), PIECES, seed=3)
    assert (rows >= 0).all()
    assert torch.allclose(rows.sum(1), torch.ones(4))
    for row, piece in zip(rows, PIECES, strict=True):
        assert set(row.nonzero().flatten().tolist()) <= set(piece)


def test_concentration_draws_towards_the_mean():
    mean = mean_of_pieces(MATRIX, PIECES)
    near, far = convex_hull(MATRIX, PIECES, 1e6), convex_hull(MATRIX, PIECES, 0.1)
    assert (near - mean).norm() < 0.01 * (far - mean).norm()


@pytest.mark.parametrize("name", [kind.__name__ for kind in KINDS])
def test_convex_methods_never_steal_the_arg_max(name):
    hidden = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    rows = all_rows()[name]
    assert ((hidden @ rows.T).max(1).values <= (hidden @ MATRIX.T).max(1).values + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_made_in_float32(dtype):
    for name, rows in all_rows(dtype).items():
        assert rows.dtype == torch.float32, name
        assert torch.equal(rows[2], MATRIX[0].to(dtype).float())


def test_deterministic_in_the_seed():
    first, again, other = all_rows(seed=1), all_rows(seed=1), all_rows(seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["ConvexHull"], other["ConvexHull"])


def test_a_piece_has_the_same_row_however_many_are_made():
    assert torch.equal(convex_hull(MATRIX, PIECES, seed=5)[:2], convex_hull(MATRIX, PIECES[:2], seed=5))


def test_numbers_are_read_as_people_write_them():
    assert ConvexHull(concentration="2").concentration == 2.0
