"""What may stand under `init:`, and what the author of a mistake reads."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from adapt.errors import RecipeError
from adapt.recipe import load_text
from adapt.vocabulary.initialisation import INITIALISATIONS, METHODS, AnyInitialisation, PerSide
from adapt.vocabulary.initialisation.auto import Auto
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.distil import Distil
from adapt.vocabulary.initialisation.last_first import LastFirst
from adapt.vocabulary.initialisation.mean import Mean
from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces

RECIPE = """\
name: tiny
stages:
  grown:
    kind: expand_vocabulary
    model: base
    corpus: target
    add: 200
    init: """
NAMES = ", ".join(kind.model_fields["method"].default for kind in INITIALISATIONS)
ONE_SIDE = ", ".join(kind.model_fields["method"].default for kind in METHODS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("mean", Mean()),
        ({"method": "convex_hull", "concentration": "2"}, ConvexHull(concentration=2.0)),
        ({"method": "last_first", "input": "exponential"}, LastFirst(input="exponential")),
        ({"input": "mean", "output": {"method": "last_first"}}, PerSide(input=Mean(), output=LastFirst())),
        (
            {"method": "distil", "start": {"input": "mean", "output": "mean"}},
            Distil(start=PerSide(input=Mean(), output=Mean())),
        ),
        ({"method": "distil", "start": "auto"}, Distil(start=Auto())),
        ({"method": "auto", "candidates": ["mean", "convex_hull"]}, Auto(candidates=(Mean(), ConvexHull()))),
    ],
    ids=str,
)
def test_forms(written, meant):
    read = TypeAdapter(AnyInitialisation).validate_python(written)
    assert read == meant
    assert TypeAdapter(AnyInitialisation).validate_python(read.model_dump(mode="json")) == meant


def problem(init: str) -> str:
    """The only line about `init`, without its place in the file."""
    with pytest.raises(RecipeError) as caught:
        load_text(RECIPE + init, "r.yaml", ())
    (line,) = [line for line in str(caught.value).splitlines() if "grown.init" in line]
    return line.removeprefix("r.yaml:8:")


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("meen", f"11: stages.grown.init: unknown method 'meen'; did you mean 'mean'? allowed: {NAMES}"),
        (
            "{method: meen}",
            f"20: stages.grown.init.method: unknown method 'meen'; did you mean 'mean'? allowed: {NAMES}",
        ),
        ("{methd: mean}", "12: stages.grown.init: unknown key 'methd'; did you mean 'method'? allowed: method"),
        ("{noise: 1}", f"5: stages.grown.init: lacks the key 'method'; allowed: {NAMES}"),
        (
            "{method: mean, nois: 1}",
            "26: stages.grown.init: unknown key 'nois'; did you mean 'noise'? allowed: method, noise",
        ),
        (
            "{input: mean}",
            "5: stages.grown.init: lacks the key 'output' (How the rows of the output embedding begin: a name, or "
            "`method` with its settings)",
        ),
        (
            "{input: mean, output: meen}",
            f"33: stages.grown.init.output: unknown method 'meen'; did you mean 'mean'? allowed: {ONE_SIDE}",
        ),
        (
            "{input: mean, output: {method: gaussian, scale: -1}}",
            "59: stages.grown.init.output.scale: -1 is not allowed; it must be at least 0",
        ),
        (
            "{inputt: mean, output: mean}",
            "12: stages.grown.init: unknown key 'inputt'; did you mean 'input'? allowed: input, output",
        ),
        (
            "{method: distil, start: distil}",
            f"35: stages.grown.init.start: unknown method 'distil'; allowed: {ONE_SIDE}, auto",
        ),
        (
            "{method: auto, candidates: [mean, meen]}",
            f"45: stages.grown.init.candidates.1: unknown method 'meen'; did you mean 'mean'? allowed: {ONE_SIDE}",
        ),
        (
            "{method: auto, candidates: []}",
            "38: stages.grown.init.candidates: an empty list cannot stand here; expected at least 1 entry",
        ),
    ],
)
def test_a_mistake_is_one_line(init, message):
    assert problem(init) == message


def test_labels_say_what_differs_from_the_defaults():
    assert Mean().label == "mean"
    assert MeanOfPieces(weights="last").label == "mean_of_pieces (weights last)"
    assert Distil(start=Mean(noise=0.5), steps=7).label == "distil (start mean (noise 0.5), steps 7)"


def test_files_of_what_is_inside_are_told():
    focus = {"method": "focus", "vectors": "a.vec"}
    for written in (focus, {"input": "mean", "output": focus}, {"method": "distil", "start": focus}):
        init = TypeAdapter(AnyInitialisation).validate_python(written)
        assert [str(path) for path in init.files()] == ["a.vec"]
    both = TypeAdapter(AnyInitialisation).validate_python({"method": "auto", "candidates": ["mean", focus]})
    assert [str(path) for path in both.files()] == ["a.vec"]
