"""`last_first` and the direction that carries its prior (methods F: A-25)."""

from __future__ import annotations

import math

import pytest
import torch

from adapt.errors import AdaptError
from adapt.vocabulary.direction import ConstantDirection, constant_direction, hidden_states
from adapt.vocabulary.initialisation import NewRows
from adapt.vocabulary.initialisation.last_first import LastFirst, first_with_prior, log_shares
from adapt.vocabulary.initialisation.mean_of_pieces import mean_of_pieces
from tests.vocabulary.initialisation.grown import case

PIECES = [(3, 5), (3, 1), (4,)]


def planted(count=4000, width=8):
    """Hidden states whose first coordinate is 1."""
    states = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    states[:, 0] = 1
    return states


def test_a_planted_direction_is_found():
    found = constant_direction(planted())
    assert torch.allclose(found.vector, torch.eye(8)[0], atol=0.02)
    assert found.mean == pytest.approx(1, abs=2e-3)
    assert found.std < 0.02
    assert found.is_constant


def test_states_around_zero_have_none():
    assert not constant_direction(torch.randn(4000, 8)).is_constant
    assert not ConstantDirection(torch.zeros(8), 1.0, 0.4).is_constant
    assert not ConstantDirection(torch.zeros(8), 0.6, 0.0).is_constant


def test_the_new_piece_gets_its_share_of_the_first_part():
    """A-25: P(new) = P(first) * share, exactly, where the direction is constant."""
    matrix = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
    logs = log_shares(torch.tensor([30, 5, 0]), torch.tensor([120, 120, 9]))
    assert logs.tolist() == pytest.approx([math.log(30.5 / 121), math.log(5.5 / 121), math.log(0.5 / 10)])
    hidden = planted(50)
    rows = first_with_prior(matrix, PIECES, logs, torch.eye(8)[0])
    probabilities = torch.softmax(hidden @ torch.cat([matrix, rows]).T, dim=1)
    for place, parts in enumerate(PIECES):
        assert torch.allclose(probabilities[:, 9 + place], probabilities[:, parts[0]] * logs[place].exp(), rtol=1e-4)


def test_counts_and_direction_come_from_the_evidence():
    known = case()
    model = known.model()
    evidence = known.evidence(model)
    matrix = model.get_output_embeddings().weight.detach()
    new = NewRows(known.parts, known.ordinary, "output", 0, known.ids, evidence=evidence, height=known.height)
    old, grown = (
        [index for text in evidence.texts for index in one.encode(text, add_special_tokens=False)]
        for one in (known.old, known.new)
    )
    rows = LastFirst().rows(matrix, new)
    for row, index, parts in zip(rows, known.ids, known.parts, strict=True):
        share = (grown.count(index) + 0.5) / (old.count(parts[0]) + 1)
        assert torch.allclose(row, matrix[parts[0]] + math.log(share) * evidence.direction.vector, atol=1e-4)
    plain = LastFirst(prior=False).rows(matrix, new)
    assert torch.equal(plain, matrix[[parts[0] for parts in known.parts]])


def test_the_input_row_is_the_last_part():
    matrix = torch.randn(9, 8)
    new = NewRows(PIECES, torch.arange(9), "input", 0, [9, 10, 11])
    assert torch.equal(LastFirst().rows(matrix, new), matrix[[5, 1, 4]])
    assert torch.allclose(LastFirst(input="exponential").rows(matrix, new)[0], (matrix[3] + 2 * matrix[5]) / 3)


def test_hidden_states_are_those_before_the_head():
    model = case().model()
    documents = [[5, 6, 7, 8], [9, 10]]
    states = hidden_states(model, documents, first=0)
    ids = torch.tensor([[0, 5, 6, 7, 8, 0, 9, 10]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    assert torch.allclose(states @ model.get_output_embeddings().weight.T, logits, atol=1e-4)
    assert len(hidden_states(model, [[5] * 300] * 9, first=0, positions=600)) == 512


def test_a_tied_model_gets_the_mean_and_is_told_so():
    model, report = case().grow(LastFirst(), tied=True)
    matrix = model.get_input_embeddings().weight.detach()
    assert torch.equal(matrix[case().ids], mean_of_pieces(matrix, case().parts))
    assert report["notes"] == ["last_first: input and output are one matrix, so the rows are those of mean_of_pieces"]


def test_without_a_constant_direction_the_output_is_the_mean_and_it_says_so():
    known = case()
    model = known.model()
    evidence = known.evidence(model)
    evidence.direction = ConstantDirection(torch.zeros(64), 0.2, 0.9)
    _, report = known.grow(LastFirst(), model=model, evidence=evidence)
    matrix = model.get_output_embeddings().weight.detach()
    assert torch.equal(matrix[known.ids], mean_of_pieces(matrix, known.parts))
    assert report["prior"] == {"mean": 0.2, "std": 0.9}
    assert report["notes"] == [
        "last_first: no direction of the hidden states is constant, so the output rows are mean_of_pieces"
    ]


def test_the_prior_needs_text():
    new = NewRows(PIECES, torch.arange(9), "output", 0, [9, 10, 11])
    with pytest.raises(
        AdaptError, match=r"^init 'last_first' looks at text, but none was given; call grow with evidence$"
    ):
        LastFirst().rows(torch.randn(9, 8), new)
