"""Orthogonal matching pursuit (methods F: A-17)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.initialisation.omp import Omp, orthogonal_matching_pursuit
from adapt.vocabulary.vectors import texts_of
from tests.conftest import make_model
from tests.vocabulary.initialisation.bijection import WORDS, Case, random_rows


def by_the_book(target, atoms, count):
    """J.3 of the methods, one target, least squares anew at each step."""
    chosen, residual, weights = [], target, torch.zeros(0, dtype=torch.float64)
    for _ in range(count):
        scores = (atoms @ residual).abs() / atoms.norm(dim=1)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        weights = torch.linalg.lstsq(atoms[chosen].T, target[:, None]).solution[:, 0]
        residual = target - atoms[chosen].T @ weights
    return chosen, weights, residual


def rebuilt(places, weights, atoms):
    return torch.einsum("mk,mkd->md", weights, atoms[places])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_equal_to_the_book(seed, count):
    targets, atoms = random_rows(3, 7, seed), random_rows(15, 7, seed + 1)
    places, weights, residuals = orthogonal_matching_pursuit(targets, atoms, count)
    for row, target in enumerate(targets.double()):
        chosen, expected, residual = by_the_book(target, atoms.double(), count)
        assert places[row].tolist() == chosen
        assert torch.allclose(weights[row].double(), expected, atol=1e-4)
        assert residuals[row].item() == pytest.approx((residual.norm() / target.norm()).item(), abs=1e-5)


def test_as_many_atoms_as_dimensions_are_exact():
    targets, atoms = random_rows(5, 8), random_rows(30, 8, 1)
    places, weights, residuals = orthogonal_matching_pursuit(targets, atoms, 8)
    assert torch.allclose(rebuilt(places, weights, atoms), targets, atol=1e-4)
    assert (residuals < 1e-6).all()


def test_a_target_among_the_atoms_is_one_atom():
    atoms = random_rows(30, 8)
    places, weights, _ = orthogonal_matching_pursuit(atoms[[4, 9]] * 2, atoms, 5)
    assert places[:, 0].tolist() == [4, 9]
    assert torch.allclose(weights, torch.tensor([[2.0, 0, 0, 0, 0]] * 2), atol=1e-5)


def test_repeated_and_empty_atoms_and_atoms_that_do_not_span():
    flat = random_rows(6, 8, 3)
    flat[:, 4:] = 0
    atoms = torch.cat([flat, flat, torch.zeros(2, 8)])
    target = random_rows(1, 8, 4)
    places, weights, residuals = orthogonal_matching_pursuit(target, atoms, 10)
    assert torch.isfinite(weights).all()
    assert torch.allclose(rebuilt(places, weights, atoms)[0, :4], target[0, :4], atol=1e-4)
    assert residuals.item() == pytest.approx((target[0, 4:].norm() / target.norm()).item(), rel=1e-4)


def test_batches_do_not_change_the_result(monkeypatch):
    targets, atoms = random_rows(7, 8), random_rows(20, 8, 1)
    whole = orthogonal_matching_pursuit(targets, atoms, 4)
    monkeypatch.setattr("adapt.vocabulary.initialisation.omp._CELLS", 64)
    parts = orthogonal_matching_pursuit(targets, atoms, 4)
    assert torch.equal(whole[0], parts[0])
    assert torch.allclose(whole[1], parts[1], atol=1e-5)


CASE = Case()
THEIRS = dict(zip(texts_of(range(len(CASE.new)), CASE.new), range(len(CASE.new)), strict=True))
OURS = dict(zip(texts_of(CASE.ordinary.tolist(), CASE.old), CASE.ordinary.tolist(), strict=True))
SHARED = [text for text in OURS if text and text in THEIRS]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def donor(request, tmp_path_factory):
    """A model with the other tokenizer whose shared tokens have the base's rows, so that both spaces are one."""
    folder = tmp_path_factory.mktemp("donor")
    model = make_model(CASE.height, tied=request.param, seed=9)
    theirs, ours = [THEIRS[text] for text in SHARED], [OURS[text] for text in SHARED]
    for get in ("get_input_embeddings", "get_output_embeddings")[: 1 if request.param else 2]:
        getattr(model, get)().weight.data[theirs] = getattr(CASE.model, get)().weight.data[ours]
    model.save_pretrained(folder)
    CASE.new.save_pretrained(folder)
    return str(folder), model


def test_where_both_spaces_are_one_the_donors_rows_come_back(donor):
    """64 atoms span the 64 dimensions; each side is taken from the donor's matrix of that side."""
    folder, model = donor
    tied = model.config.tie_word_embeddings
    for side, get in (("input", "get_input_embeddings"), ("output", "get_output_embeddings"))[: 1 if tied else 2]:
        rows = Omp(donor=folder).rows(getattr(CASE.model, get)().weight.detach(), CASE.rows(side))
        assert torch.allclose(rows, getattr(model, get)().weight.detach()[CASE.ids], atol=1e-4)


def test_what_the_donor_does_not_have_is_left_to_its_parts(donor):
    ids = [*CASE.ids, len(CASE.new) - 1, CASE.height + 3]
    new = CASE.rows(ids=ids)
    init = Omp(donor=donor[0], tokens=3)
    rows = init.rows(torch.eye(CASE.height), new)
    assert torch.allclose(rows[-1].sum(), torch.tensor(1.0))
    assert set(rows[-1].nonzero().flatten().tolist()) == set(new.pieces[-1])
    assert ((rows[: len(WORDS)] != 0).sum(1) <= 3).all()
    report = init.refine({"input": new})
    assert report["input_coverage"]["fallback"] == 1
    assert 0 < report["input_coverage"]["residual"] < 1


def test_the_donors_files_belong_to_the_key(donor):
    names = {path.name for path in Omp(donor=donor[0]).files()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names


def test_bad_donors_are_one_line(tmp_path, donor):
    with pytest.raises(AdaptError) as caught:
        Omp(donor="no/donor").rows(torch.eye(CASE.height), CASE.rows())
    assert str(caught.value) == (
        "there is no donor model 'no/donor'; give a folder with config.json (nothing is downloaded)"
    )
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AdaptError, match=r"^cannot read the donor: '.*' holds no model.safetensors"):
        Omp(donor=str(tmp_path)).rows(torch.eye(CASE.height), CASE.rows())
    with pytest.raises(AdaptError, match=r"shares no token with the base model, so nothing can be taken from it$"):
        Omp(donor=donor[0]).rows(torch.eye(CASE.height), CASE.rows(ordinary=torch.tensor(CASE.twins)))
