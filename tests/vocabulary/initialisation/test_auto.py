"""`auto`, and a method for each side."""

from __future__ import annotations

import pytest
import torch

from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import bits_per_byte
from adapt.vocabulary.initialisation import NewRows, PerSide
from adapt.vocabulary.initialisation.auto import Auto, Score, chosen
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.last_first import LastFirst
from adapt.vocabulary.initialisation.mean import Mean
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces
from adapt.vocabulary.initialisation.random import Random
from tests.conftest import ENGLISH, UKRAINIAN
from tests.vocabulary.initialisation.grown import case

CANDIDATES = (Mean(), MeanOfPieces(), Random(std=2), PerSide(input=MeanOfPieces(), output=LastFirst(prior=False)))


def test_it_keeps_the_rows_of_the_best_and_tells_all_scores():
    known = case()
    model, report = known.grow(Auto(candidates=CANDIDATES, general_rise=9))
    scores = {score["init"]: score for score in report["auto"]["scores"]}
    assert list(scores) == [candidate.label for candidate in CANDIDATES]
    best = min(CANDIDATES, key=lambda candidate: scores[candidate.label]["target"])
    assert report["auto"]["chosen"] == best.label
    alone, norms = known.grow(best)
    for side in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(model, side)().weight, getattr(alone, side)().weight)
    assert report["input"] == norms["input"]
    for name, texts in (("target", UKRAINIAN[:5]), ("general", ENGLISH[:5])):
        measured = bits_per_byte(model, known.new, texts).value
        assert scores[best.label][name] == pytest.approx(measured, abs=1e-6)
    before = bits_per_byte(known.model(), known.old, ENGLISH[:5]).value
    alone = bits_per_byte(without_padding(known), known.old, ENGLISH[:5]).value
    assert report["auto"]["general_before"] == pytest.approx(alone, abs=1e-6), "the new pieces stand on all padding"
    assert alone < before


def without_padding(known):
    model = known.model()
    model.resize_token_embeddings(len(known.old))
    return model


def score(label: str, target: float, general: float | None) -> Score:
    return Score(label, target, general, {}, {})


def test_general_text_may_rise_so_far_and_no_further():
    scores = [score("bold", 1.0, 2.2), score("careful", 1.5, 2.04), score("poor", 1.6, 2.0)]
    assert chosen(scores, 2.0, 0.05)[0].label == "careful"
    assert chosen(scores, 2.0, 0.25)[0].label == "bold"
    assert chosen(scores, None, 0.0)[0].label == "bold"
    best, notes = chosen(scores[:2], 2.0, 0.01)
    assert best.label == "careful"
    assert notes == [
        "auto: with every candidate general text rises by more than general_rise (0.01 bits per byte); "
        "kept the one with the least rise, 0.040"
    ]


def test_equal_rows_are_measured_once_and_get_equal_scores():
    """A tied model, on which last_first is mean_of_pieces."""
    _, report = case().grow(Auto(candidates=(MeanOfPieces(), LastFirst())), tied=True)
    first, second = report["auto"]["scores"]
    assert first == second | {"init": "mean_of_pieces"}
    assert report["auto"]["chosen"] == "mean_of_pieces"
    assert "notes" not in report


def test_of_equals_the_first_is_kept():
    assert chosen([score("a", 1.0, None), score("b", 1.0, None)], None, 0.0)[0].label == "a"


def test_without_general_text_the_target_decides():
    known = case()
    model = known.model()
    evidence = known.evidence(model, held_out={"target": UKRAINIAN[:3]}, general=None)
    _, report = known.grow(Auto(candidates=CANDIDATES[:2]), model=model, evidence=evidence)
    assert report["auto"]["general_before"] is None


def test_without_held_out_text_there_is_nothing_to_compare():
    known = case()
    model = known.model()
    evidence = known.evidence(model, held_out={})
    message = r"^init 'auto' compares its candidates on held-out text, but none is measured; set measure$"
    with pytest.raises(AdaptError, match=message):
        known.grow(Auto(), model=model, evidence=evidence)


def test_each_side_has_its_own_method():
    matrix = torch.randn(9, 6)
    init = PerSide(input=Mean(), output=MeanOfPieces(weights="first"))
    pieces = [(3, 5), (4, 1)]
    sides = {side: NewRows(pieces, torch.arange(9), side, 0, [9, 10]) for side in ("input", "output")}
    assert torch.equal(init.rows(matrix, sides["input"]), Mean().rows(matrix, sides["input"]))
    assert torch.equal(init.rows(matrix, sides["output"]), matrix[[3, 4]])
    assert init.method == "mean / mean_of_pieces"
    assert init.label == "mean / mean_of_pieces (weights first)"


def test_what_both_sides_report_is_kept():
    known = case()
    _, report = known.grow(PerSide(input=ConvexHull(), output=LastFirst()))
    assert set(report["prior"]) == {"mean", "std"}


def test_a_tied_matrix_has_no_sides():
    message = (
        r"^init: \{input: mean, output: last_first\} cannot be done: the model's input and output embedding are one "
        r"matrix; give one method, for example mean_of_pieces$"
    )
    with pytest.raises(AdaptError, match=message):
        case().grow(PerSide(input=Mean(), output=LastFirst()), tied=True)
