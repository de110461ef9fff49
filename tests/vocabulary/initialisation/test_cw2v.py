"""Constrained Word2Vec: convexity, the gradient, what training does."""

from __future__ import annotations

import pytest
import torch

from adapt.vocabulary.initialisation.base import weighted_rows
from adapt.vocabulary.initialisation.cw2v import Cw2v, first_tokens
from adapt.vocabulary.initialisation.mean_of_pieces import mean_of_pieces
from adapt.vocabulary.skip_gram import Mixture, Table, Walk, _loss, _Text, train
from tests.vocabulary.initialisation.bijection import Case, random_rows

CASE = Case()
INIT = Cw2v(rank=8, epochs=2, tokens=400, batch=200, learning_rate=0.01)
PIECES = [(3, 5), (7, 7, 1), (2,)]
COLUMNS = torch.tensor([1, 2, 3, 4, 5, 7, 8])


def mixture(pieces=PIECES, rank=4):
    return Mixture.begin(pieces, COLUMNS, rank, torch.Generator().manual_seed(0))


def trained(seed=0):
    """A mixture with factors that are not at their start."""
    made = mixture()
    for part, shift in ((made.left, 1), (made.right, 2)):
        part.data += random_rows(*part.shape, seed + shift)
    return made


def test_it_starts_at_nine_tenths_of_the_pieces_mean_and_one_tenth_of_everything():
    matrix = random_rows(9, 6)
    expected = 0.9 * mean_of_pieces(matrix, PIECES) + 0.1 * matrix[COLUMNS].mean(0)
    assert torch.allclose(mixture().rows(matrix), expected, atol=1e-5)


def test_without_pieces_it_starts_at_the_mean_of_all_old_rows():
    matrix = random_rows(9, 6)
    assert torch.allclose(mixture([()] * 3).rows(matrix), matrix[COLUMNS].mean(0).expand(3, -1), atol=1e-6)


def test_weights_are_the_softmax_of_the_product_of_the_factors():
    made, matrix = trained(), random_rows(9, 6)
    made.prior = torch.zeros_like(made.prior)
    weights = torch.softmax(made.left @ made.right, dim=1).detach()
    expected = weighted_rows(matrix, [COLUMNS.tolist()] * 3, list(weights))
    assert torch.allclose(made.rows(matrix), expected, atol=1e-5)
    assert torch.allclose(made.weights(torch.tensor([2, 0])), weights[[2, 0]], atol=1e-6)


def example():
    """Ids 9 to 11 are new; pairs and negatives of all kinds, one negative that is the neighbour itself."""
    place = torch.full((12,), -1)
    place[9:] = torch.arange(3)
    first, second = torch.tensor([9, 3, 10, 10, 4]), torch.tensor([5, 11, 9, 2, 8])
    return place, first, second, torch.tensor([[1, 10], [9, 9], [9, 3], [11, 10], [2, 5]])


@pytest.mark.parametrize("cells", [2**25, 7])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradient_equal_the_formula(monkeypatch, cells, tied):
    """Against loops over the pairs on the whole matrices, with and without chunks of one row."""
    monkeypatch.setattr("adapt.vocabulary.skip_gram._CELLS", cells)
    place, first, second, negatives = example()
    matrices = [random_rows(12, 6, 1), random_rows(12, 6, 2)]
    centre = Table(trained(), matrices[0], place)
    context = centre if tied else Table(trained(5), matrices[1], place)
    loss = _loss(centre, context, first, second, negatives)
    loss.backward()
    centre.backward()
    context.backward()

    plain = []
    factors = []
    for table in (centre, context)[: 1 if tied else 2]:
        left, right = (part.detach().clone().requires_grad_() for part in (table.mixture.left, table.mixture.right))
        logits = left @ right
        for (row, column), value in zip(table.mixture.where.tolist(), table.mixture.prior, strict=True):
            logits = logits + value * torch.nn.functional.one_hot(torch.tensor(row * 7 + column), 21).reshape(3, 7)
        plain.append(torch.cat([table.matrix[:9], torch.softmax(logits, 1) @ table.matrix[COLUMNS]]))
        factors.append((left, right))
    v, u = plain[0], plain[-1]
    expected = torch.tensor(0.0)
    for c, o, several in zip(first, second, negatives, strict=True):
        expected = expected - torch.log(torch.sigmoid(u[o] @ v[c]))
        for n in several:
            if n != o:
                expected = expected - torch.log(torch.sigmoid(-u[n] @ v[c]))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for table, (left, right) in zip((centre, context), factors, strict=False):
        assert torch.allclose(table.mixture.left.grad, left.grad, atol=1e-4)
        assert torch.allclose(table.mixture.right.grad, right.grad, atol=1e-4)


def test_pairs_are_all_neighbours_of_the_same_document():
    text = _Text.of([[1, 2, 3], [4, 5]], 6)
    first, second = text.pairs(torch.arange(5), 2)
    found = sorted(zip(first.tolist(), second.tolist(), strict=True))
    assert found == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (4, 5), (5, 4)]


def test_negatives_are_drawn_by_the_power_of_their_counts():
    text = _Text.of([[1] * 16 + [2] * 81, [4]], 6)
    drawn = text.negatives(20_000, 3, torch.Generator().manual_seed(0)).flatten()
    shares = torch.bincount(drawn, minlength=6) / len(drawn)
    assert torch.allclose(shares, torch.tensor([0, 8, 27, 0, 1, 0]) / 36, atol=0.01)


def test_training_brings_the_loss_down_and_moves_nothing_but_the_weights():
    place = example()[0]
    matrix = random_rows(12, 6)
    before = matrix.clone()
    table = Table(mixture(), matrix, place)
    documents = [[9, 1, 9, 1, 10, 2, 10, 2, 11, 3]] * 20
    losses = train(table, table, documents, Walk(2, 3, 6, 100, 0.05), torch.Generator().manual_seed(0))
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.05
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("side", ["input", "output"])
def test_rows_lie_in_the_convex_hull_of_the_ordinary_rows(side):
    weights = INIT.rows(torch.eye(CASE.height), CASE.rows(side))
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(len(CASE.ids)), atol=1e-5)
    outside = torch.ones(CASE.height, dtype=torch.bool)
    outside[CASE.ordinary] = False
    assert not weights[:, outside].any()


def test_the_sides_have_weights_of_their_own_and_tied_models_one():
    case = Case()
    for weight in (case.model.get_input_embeddings().weight, case.model.get_output_embeddings().weight):
        weight.data *= 20  # rows as drawn are so short that every pair's score is 0
    evidence = case.evidence()
    new = [case.rows(side, evidence=evidence) for side in ("input", "output")]
    first, second = (INIT.rows(torch.eye(case.height), one) for one in new)
    assert not torch.equal(first, second)
    report = INIT.refine({"input": new[0], "output": new[1]})["cw2v"]
    assert report["last_loss"] < report["first_loss"]
    tied = Case(tied=True)
    matrix = tied.model.get_input_embeddings().weight.detach()
    assert INIT.rows(matrix, tied.rows(tied=True)).shape == (len(tied.ids), 64)


def test_deterministic_in_the_seed():
    first, again, other = (INIT.rows(torch.eye(CASE.height), CASE.rows(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_chunks_do_not_change_the_rows(monkeypatch):
    whole = INIT.rows(torch.eye(CASE.height), CASE.rows())
    monkeypatch.setattr("adapt.vocabulary.skip_gram._CELLS", 4 * len(CASE.ordinary))
    assert torch.allclose(INIT.rows(torch.eye(CASE.height), CASE.rows()), whole, atol=1e-3)


def test_a_corpus_without_new_pieces_leaves_the_start():
    case = Case(texts=["."])
    matrix = random_rows(case.height, 6)
    new = case.rows()
    expected = 0.9 * mean_of_pieces(matrix, new.pieces) + 0.1 * matrix[case.ordinary].mean(0)
    assert torch.allclose(INIT.rows(matrix, new), expected, atol=1e-4)


def test_first_tokens():
    assert first_tokens([[1, 2], [3, 4], [5]], 3) == [[1, 2], [3]]
    assert first_tokens([[1, 2]], 9) == [[1, 2]]
