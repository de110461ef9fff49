"""Methods in expressions: what is bound to what, nested calls, rows that models lack, and mistakes."""

from __future__ import annotations

import pytest
import torch

from merge.device import BLOCKS
from merge.engine import write
from merge.errors import ExpressionError, MergeError
from merge.formula import Call, Leaf, Linear, parse
from merge.methods import METHODS, Values, merge_tensors
from merge.parameters import Gradient
from merge.planning import prepare
from tests.merge.family import EMBED, GROWN, make_family

UP = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1)]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def call_of(text) -> Call:
    (found,) = parse(text).terms
    return found


def test_models_base_weights_and_parameters():
    found = call_of("ties(base, [a: 1.0, b: 0.5], density=[0.2, 0.4], normalize=false)")
    assert (found.base, found.models) == (Leaf("base"), (Leaf("a"), Leaf("b")))
    assert dict(found.each) == {"weight": (1.0, 0.5), "density": (0.2, 0.4)}
    assert dict(found.common)["normalize"] is False
    assert dict(found.common)["lambda"] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "ties(base, [a, b], density=0.3)",
        "ties(base, a, b, density=0.3)",
        "ties(models=[a, b], base=base, density=0.3)",
        "ties(base, [a: 1, b: 1], density=[0.3, 0.3])",
        "ties(base, [base + (a - base), b], density=0.3, weight=1)",
        "ties(base, [a - base, b - base], density=3/10)",
    ],
)
def test_ways_to_write_the_same(text):
    models = [model if isinstance(model, Leaf) else model.differences[0].minuend for model in call_of(text).models]
    assert models == [Leaf("a"), Leaf("b")]
    assert dict(call_of(text).each) == dict(call_of("ties(base, [a, b], density=0.3)").each)


def test_the_order_of_arguments_is_the_methods_own():
    found = call_of("half_reset(chat, base, ratio=0.25, seed=7)")
    assert (found.models, found.base, found.seed) == ((Leaf("chat"),), Leaf("base"), 7)


def test_a_list_is_a_gradient_over_the_layers(family, tmp_path):
    assert dict(call_of("slerp(a, b, t=[0, 0.5, 1])").common)["t"] == Gradient((0.0, 0.5, 1.0))
    write(prepare("slerp(base, instruct, t=[0, 1])", family.folders), tmp_path / "out")
    found = prepare("a", {"a": tmp_path / "out"}).anchor
    assert torch.equal(found.tensor(UP[0]), family["base"][UP[0]])
    assert torch.equal(found.tensor(UP[1]), family["instruct"][UP[1]])


def test_a_call_is_the_method_on_tensors(family, tmp_path):
    write(prepare("ties(base, [cpt: 1, instruct: 0.5], density=0.4)", family.folders), tmp_path / "out")
    found = prepare("a", {"a": tmp_path / "out"}).anchor
    base, cpt, instruct = (family[name] for name in ("base", "cpt", "instruct"))
    values = Values({"normalize": True, "rescale": False, "lambda": 1.0}, {"weight": [1, 0.5], "density": [0.4, 0.4]})
    for name in UP:
        expected = merge_tensors(METHODS["ties"](), [cpt[name], instruct[name]], base[name], values)
        assert torch.equal(found.tensor(name), expected)


def test_calls_stand_in_sums_and_in_calls(family, tmp_path):
    text = "cpt + 0.5 * (slerp(instruct, base, t=0.25) - base)"
    (start, *_), call = parse(text).terms, call_of("slerp(instruct, base, t=0.25)")
    assert start == Leaf("cpt")
    formula = parse(text).formula("cpt")
    assert isinstance(formula, Linear)
    assert formula.differences[0].minuend == call
    nested = call_of("ties(base, [cpt, slerp(instruct, base, t=0.25)], density=0.5)")
    assert nested.models[1] == call
    write(prepare(text, family.folders), tmp_path / "out")
    found = prepare("a", {"a": tmp_path / "out"}).anchor
    base, cpt, instruct = (family[name][UP[0]] for name in ("base", "cpt", "instruct"))
    slerp = merge_tensors(METHODS["slerp"](), [base], instruct, Values({"t": 0.25}))
    assert torch.allclose(found.tensor(UP[0]), cpt + 0.5 * (slerp - base), atol=1e-6)


def test_rows_that_the_base_lacks_are_the_first_models(family, tmp_path):
    write(prepare("ties(base, [instruct, cpt], density=0.5)", family.folders), tmp_path / "out")
    found = prepare("a", {"a": tmp_path / "out"}).anchor
    cpt = family["cpt"][EMBED]
    assert torch.equal(found.tensor(EMBED)[-GROWN:], cpt[-GROWN:])
    assert not torch.equal(found.tensor(EMBED)[50:100], cpt[50:100])
    write(prepare("slerp(cpt, instruct, t=0.5)", family.folders), tmp_path / "two")
    averaged = prepare("a", {"a": tmp_path / "two"}).anchor.tensor(EMBED)
    assert torch.allclose(averaged[-GROWN:], cpt[-GROWN:], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "character", "message"),
    [
        ("tiess(base, [a, b])", 1, "there is no method 'tiess'; did you mean 'ties'?"),
        ("ties(base, [a, b], densty=0.3)", 20, "ties has no parameter 'densty'; did you mean 'density'?"),
        ("ties(base, [a, b], density=1.5)", 20, "density is 1.5; it lies from 0 to 1"),
        ("ties(base, [a, b], density=[0.1, 0.2, 0.3])", 20, "density has 3 values for 2 models"),
        ("ties([a, b])", 1, "ties needs a base: ties(base, [a, b], ...)"),
        ("slerp(a, b)", 1, "slerp needs t"),
        ("slerp(a, b, c, t=0.5)", 1, "slerp takes 1 models, 2 are given"),
        ("slerp(a, b, t=0.5, seed=3)", 20, "slerp draws no random numbers, so it takes no seed"),
        ("linear(base=a, b)", 8, "linear has no base"),
        ("ties(base, [a: 1], weight=2)", 20, "weights are given twice"),
        ("ties(base, [a, b], normalize=2)", 20, "normalize is 2.0; it is true or false"),
        ("ties(base, [a, b], density=c)", 20, "density is 'c'; it is a number"),
        ("ties(base, [a + b])", 15, "sum to 2, not to 1"),
        ("ties(base, [3])", 13, "a number stands where a model is expected"),
        ("a + [b]", 5, "expected a model, a number or '(', found '['"),
        ("ties(base, [a, b)", 17, "expected ',' or ']', found ')'"),
        ("ties(base, [a]", 15, "expected ',' or ')', found the end"),
    ],
)
def test_mistakes_point_at_the_character(text, character, message):
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.position == character - 1, str(error.value)


def test_values_that_do_not_go_together_are_found_before_a_tensor_is_read(family):
    with pytest.raises(MergeError, match=r"della: density 0\.1 with epsilon 0\.15 gives probabilities"):
        prepare("della(base, [cpt, instruct], density=0.1)", family.folders)
    with pytest.raises(MergeError, match="linear: the weights 1, -1 sum to 0"):
        prepare("linear([cpt: 1, instruct: -1])", family.folders)
    with pytest.raises(MergeError, match="granularity is 'matrx'; it is one of matrix, row, element"):
        prepare('half_reset(cpt, base, granularity="matrx")', family.folders)


def test_random_methods_do_not_depend_on_threads_blocks_or_other_tensors(family, tmp_path, monkeypatch):
    text = "dare_ties(base, [cpt: 1, instruct: 0.5], density=0.5, seed=3)"
    write(prepare(text, family.folders), tmp_path / "one", threads=1)
    monkeypatch.setitem(BLOCKS, "cpu", 777)
    write(prepare(text, family.folders), tmp_path / "three", threads=3)
    one, three = (prepare("a", {"a": tmp_path / name}).anchor for name in ("one", "three"))
    assert all(torch.equal(one.tensor(name), three.tensor(name)) for name in one.tensors)
    swapped = "dare_ties(base, [instruct: 0.5, cpt: 1], density=0.5, seed=3)"
    write(prepare(swapped, family.folders), tmp_path / "swapped")
    other = prepare("a", {"a": tmp_path / "swapped"}).anchor
    assert torch.allclose(one.tensor(UP[0]), other.tensor(UP[0]), atol=1e-6)
    write(prepare(text.replace("seed=3", "seed=4"), family.folders), tmp_path / "seed")
    assert not torch.equal(prepare("a", {"a": tmp_path / "seed"}).anchor.tensor(UP[0]), one.tensor(UP[0]))
