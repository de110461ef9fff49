"""Expressions: what they mean, and where they are wrong."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge.errors import ExpressionError, MergeError
from merge.formula import names_in, parse
from merge.roles import Roles, Vector, assign


@pytest.mark.parametrize(
    ("text", "coefficients"),
    [
        ("cpt", {"cpt": 1}),
        ("cpt + 0.8 * (instruct - base)", {"cpt": 1, "instruct": 0.8, "base": -0.8}),
        ("cpt+(instruct-base)*8e-1", {"cpt": 1, "instruct": 0.8, "base": -0.8}),
        ("base + (cpt - base) + .5*(instruct - base)", {"base": -0.5, "cpt": 1, "instruct": 0.5}),
        ("base + (a - base)", {"base": 0, "a": 1}),
        ("(a + b) / 2", {"a": 0.5, "b": 0.5}),
        ("2 * a - b", {"a": 2, "b": -1}),
        ("a - -1 * (b - c)", {"a": 1, "b": 1, "c": -1}),
        ("- (b - c) + a", {"b": -1, "c": 1, "a": 1}),
        ("a - 2 * 3 / 4 * (b - c)", {"a": 1, "b": -1.5, "c": 1.5}),
        ('"tiny-en" + 1.0 * ("my model" - v1.2_base)', {"tiny-en": 1, "my model": 1, "v1.2_base": -1}),
        ("модель + 1 * (чат - основа)", {"модель": 1, "чат": 1, "основа": -1}),
        ("(((a)))", {"a": 1}),
    ],
)
def test_coefficients(text, coefficients):
    found = parse(text)
    assert found.coefficients == pytest.approx(coefficients)
    assert list(found.coefficients) == list(coefficients)
    assert names_in(text) == found.models == tuple(coefficients)


@pytest.mark.parametrize(
    ("text", "character", "message"),
    [
        ("", 1, "expected a model, a number or '(', found the end"),
        ("cpt + 0.8 * (instruct - base", 29, "expected ')', found the end"),
        ("cpt + )", 7, "expected a model, a number or '(', found ')'"),
        ("cpt + 0.8 (instruct - base)", 11, "expected '+', '-', '*', '/' or the end, found '('"),
        ("cpt instruct", 5, "found 'instruct'"),
        ("cpt + 7b", 8, "found 'b'"),
        ("cpt % base", 5, "'%' means nothing here"),
        ('cpt + "base', 7, "means nothing here"),
        ("cpt * base", 5, "a model cannot be multiplied by another"),
        ("2 / base", 3, "a model cannot be divided by a model"),
        ("cpt / 0", 5, "division by zero"),
        ("cpt + 0.5 - 0.2", 1, "the number 0.3 is added to a model"),
        ("3 + 4", 1, "no model is named"),
        ("cpt + instruct", 1, "sum to 2, not to 1"),
        ("cpt - base", 1, "sum to 0, not to 1"),
    ],
)
def test_errors_point_at_the_character(text, character, message):
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert error.value.position == character - 1
    assert f"character {character}:" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


NAMES = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-9, 9).filter(bool)


@st.composite
def sums(draw, depth=3):
    """A text and its value as exact coefficients."""
    kind = draw(st.sampled_from(["name"] if depth == 0 else ["name", "sum", "product", "quotient"]))
    if kind == "name":
        name = draw(NAMES)
        return name, {name: Fraction(1)}
    left, value = draw(sums(depth=depth - 1))
    if kind == "sum":
        right, other = draw(sums(depth=depth - 1))
        sign = draw(st.sampled_from("+-"))
        factor = 1 if sign == "+" else -1
        total = {key: value.get(key, 0) + factor * other.get(key, 0) for key in {**value, **other}}
        return f"({left} {sign} {right})", total
    number = draw(NUMBERS)
    if kind == "product":
        return f"{number} * {left}", {key: item * number for key, item in value.items()}
    return f"{left} / {abs(number)}", {key: item / abs(number) for key, item in value.items()}


@given(sums())
def test_any_expression_has_the_value_that_it_says(made):
    text, value = made
    rest = 1 - sum(value.values())
    found = parse(f"{text} + {float(rest)!r} * z" if rest >= 0 else f"{text} - {float(-rest)!r} * z")
    for name, expected in value.items():
        assert found.coefficients[name] == pytest.approx(float(expected), abs=1e-9)


PIECES = {"base": "ab", "cpt": "abc", "instruct": "ab", "math": "ab"}


@pytest.mark.parametrize(
    ("text", "templates", "roles"),
    [
        ("cpt + 0.8 * (instruct - base)", "instruct", ("cpt", "instruct", [(0.8, "instruct", "base")])),
        ("cpt + 0.8 * instruct - 0.8 * base", "instruct", ("cpt", "instruct", [(0.8, "instruct", "base")])),
        ("base + 1 * (cpt - base) + 1 * (instruct - base)", "instruct", ("cpt", "instruct", [(1, "instruct", "base")])),
        ("instruct + (cpt - base)", "instruct", ("cpt", "instruct", [(1, "instruct", "base")])),
        (
            "cpt + 0.5 * (math - base) + 0.3 * (instruct - base)",
            "instruct",
            ("cpt", "instruct", [(0.5, "math", "base"), (0.3, "instruct", "base")]),
        ),
        ("base + 0.7 * (instruct - base)", "instruct", ("base", "instruct", [(0.7, "instruct", "base")])),
        ("0.3 * base + 0.7 * instruct", "instruct", ("base", None, [(0.7, "instruct", "base")])),
        ("base + 0.7 * (cpt - base)", "", ("cpt", "base", [(0.3, "base", "cpt")])),
        ("base + (instruct - base)", "instruct", ("instruct", None, [])),
        ("cpt", "cpt", ("cpt", None, [])),
    ],
)
def test_roles(text, templates, roles):
    anchor, special_from, vectors = roles
    found = assign(parse(text), PIECES, lambda name: name in templates)
    assert (found.anchor, found.special_from) == (anchor, special_from)
    assert [(v.minuend, v.subtrahend) for v in found.vectors] == [vector[1:] for vector in vectors]
    assert [v.weight for v in found.vectors] == pytest.approx([vector[0] for vector in vectors])


def test_roles_can_be_given():
    combination = parse("cpt + 1 * (instruct - base)")
    found = assign(combination, PIECES, lambda name: False, "instruct", "cpt")
    assert found == Roles("instruct", "cpt", (Vector(1.0, "cpt", "base"),))
    with pytest.raises(MergeError, match=r"special_from is 'chat', which .* does not name"):
        assign(combination, PIECES, lambda name: False, None, "chat")
