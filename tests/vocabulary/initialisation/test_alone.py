"""Methods that need the model alone, each against a formula written in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation import NewRows
from adapt.vocabulary.initialisation.gaussian import Gaussian, gaussian
from adapt.vocabulary.initialisation.mean import Mean
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces, position_weights
from adapt.vocabulary.initialisation.random import Random
from tests.vocabulary.initialisation.grown import case

MATRIX = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)) + 2
PIECES = [(3, 5), (7, 7, 1), (4,), (2, 4, 6, 8)]
ORDINARY = torch.arange(2, 25)


def new_rows(side="input", pieces=PIECES, seed=0, **changes):
    return NewRows(pieces, ORDINARY, side, seed, range(30, 30 + len(pieces)), **changes)


def test_mean_is_that_of_ordinary_rows():
    rows = Mean().rows(MATRIX, new_rows())
    assert np.allclose(rows, np.mean(MATRIX.numpy()[2:25], axis=0)[None].repeat(4, 0), atol=1e-6)


def test_noise_of_the_mean_has_the_length_that_is_asked_for():
    many = new_rows(pieces=[(3,)] * 2000)
    noise = Mean(noise=0.1).rows(MATRIX, many) - Mean().rows(MATRIX, many)
    assert abs(float(noise.norm(dim=1).pow(2).mean().sqrt() / MATRIX[2:25].norm(dim=1).mean()) - 0.1) < 0.005


def test_a_random_row_is_as_long_as_an_old_one():
    lengths = MATRIX[2:25].norm(dim=1)
    for length in Random().rows(MATRIX, new_rows()).norm(dim=1):
        assert (length - lengths).abs().min() < 1e-4
    assert abs(float(Random(std=0.3).rows(MATRIX, new_rows(pieces=[(3,)] * 2000)).std()) - 0.3) < 0.01


def test_gaussian_has_the_old_rows_mean_and_covariance():
    old = MATRIX[2:25]
    drawn = Gaussian(scale=0.5).rows(MATRIX, new_rows(pieces=[(3,)] * 40_000)).numpy()
    assert np.allclose(drawn.mean(0), old.mean(0).numpy(), atol=0.03)
    assert np.allclose(np.cov(drawn.T), 0.5 * np.cov(old.T.numpy()), atol=0.03)
    assert torch.allclose(Gaussian(scale=0).rows(MATRIX, new_rows()), Mean().rows(MATRIX, new_rows()), atol=1e-6)


def test_gaussian_stays_in_the_span_where_old_rows_are_few():
    """Two rows span a line: every draw lies on it."""
    old = torch.tensor([[1.0, 2, 3], [3, 2, 1]])
    drawn = gaussian(old, 5, 1.0, np.random.default_rng(0))
    assert torch.allclose(drawn - old.mean(0), (drawn[:, :1] - 2) * torch.tensor([[1.0, 0, -1]]), atol=1e-5)


def test_chunks_do_not_change_the_covariance():
    whole, parts = (gaussian(MATRIX, 4, 1.0, np.random.default_rng(3), chunk) for chunk in (8192, 7))
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize("init", [Mean(noise=1), Random(), Random(std=1), Gaussian(scale=1)], ids=lambda one: one.label)
def test_a_piece_has_the_same_row_however_many_are_made(init):
    assert torch.allclose(init.rows(MATRIX, new_rows())[:2], init.rows(MATRIX, new_rows(pieces=PIECES[:2])), atol=1e-6)


@pytest.mark.parametrize("init", [Mean(noise=1), Random(), Gaussian(scale=1)], ids=lambda one: one.label)
def test_the_two_sides_are_drawn_apart(init):
    assert not torch.allclose(init.rows(MATRIX, new_rows("input")), init.rows(MATRIX, new_rows("output")), atol=0.1)


def test_position_weights():
    assert position_weights(3, "exponential", "input").tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert position_weights(3, "exponential", "output").tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert position_weights(3, "last", "output").tolist() == [0, 0, 1]
    assert position_weights(3, "first", "input").tolist() == [1, 0, 0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12), st.sampled_from(["equal", "last", "first", "exponential"]), st.sampled_from(["input", "output"])
)
def test_position_weights_are_a_distribution(length, kind, side):
    weights = position_weights(length, kind, side)
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1)


def test_weights_by_bytes_are_those_of_the_text():
    known = case()
    model = known.model()
    evidence = known.evidence(model)
    new = NewRows(known.parts, known.ordinary, "input", 0, known.ids, evidence=evidence, height=known.height)
    eye = torch.eye(known.height)
    for parts, row in zip(known.parts, MeanOfPieces(weights="bytes").rows(eye, new), strict=True):
        total = sum(len(known.old.convert_ids_to_tokens(part)) for part in parts)
        for part in set(parts):
            share = parts.count(part) * len(known.old.convert_ids_to_tokens(part)) / total
            assert float(row[part]) == pytest.approx(share)


def test_what_needs_text_says_so():
    with pytest.raises(
        AdaptError, match=r"^init 'mean_of_pieces' looks at text, but none was given; call grow with evi"
    ):
        MeanOfPieces(weights="bytes").rows(MATRIX, new_rows())
