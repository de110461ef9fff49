"""Expressions over models: `cpt + 0.8 * (instruct - base)`.

    sum     = product { ("+" | "-") product }
    product = factor { ("*" | "/") factor }
    factor  = ["-" | "+"] factor | number | name | "(" sum ")"

A name is a word of letters, digits, `_` and `.`, or anything in double quotes (for names with a `-`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from merge.errors import ExpressionError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d][\w.]*)"
    r'|"(?P<quoted>[^"]*)"|(?P<symbol>[-+*/()]))'
)


@dataclass(frozen=True)
class Number:
    """A number, at a place of the text."""

    value: float
    position: int


@dataclass(frozen=True)
class Name:
    """A model, at a place of the text."""

    name: str
    position: int


@dataclass(frozen=True)
class Binary:
    """Two parts and `+`, `-`, `*` or `/` between them; the position is that of the sign."""

    operator: str
    left: Node
    right: Node
    position: int


Node = Number | Name | Binary


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise ExpressionError(
                f"'{text[start]}' means nothing here; write +, -, *, /, ( ), numbers and models", text, start
            )
        kind = match.lastgroup
        yield _Token("name" if kind == "quoted" else kind, match[kind], match.start(kind) - (kind == "quoted"))
        place = match.end()
    yield _Token("end", "", len(text.rstrip()))


class _Parser:
    """Recursive descent, one function for each line of the grammar."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.index = text, list(_tokens(text)), 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.index]

    def take(self) -> _Token:
        self.index += 1
        return self.tokens[self.index - 1]

    def fail(self, expected: str) -> ExpressionError:
        found = f"'{self.next.text}'" if self.next.text else "the end"
        return ExpressionError(f"expected {expected}, found {found}", self.text, self.next.position)

    def whole(self) -> Node:
        node = self.sum()
        if self.next.kind != "end":
            raise self.fail("'+', '-', '*', '/' or the end")
        return node

    def sum(self) -> Node:
        return self._chain(self.product, "+-")

    def product(self) -> Node:
        return self._chain(self.factor, "*/")

    def _chain(self, part: Callable[[], Node], operators: str) -> Node:
        node = part()
        while self.next.kind == "symbol" and self.next.text in operators:
            sign = self.take()
            node = Binary(sign.text, node, part(), sign.position)
        return node

    def factor(self) -> Node:
        if self.next.kind == "number":
            token = self.take()
            return Number(float(token.text), token.position)
        if self.next.kind == "name":
            token = self.take()
            return Name(token.text, token.position)
        if self.next.text in ("-", "+") and self.next.kind == "symbol":
            sign = self.take()
            part = self.factor()
            return part if sign.text == "+" else Binary("*", Number(-1.0, sign.position), part, sign.position)
        if self.next.text == "(":
            self.take()
            node = self.sum()
            if self.next.text != ")":
                raise self.fail("')'")
            self.take()
            return node
        raise self.fail("a model, a number or '('")


@dataclass(frozen=True)
class Combination:
    """A linear combination of models: `sum_m coefficients[m] * m`, in the order in which the text names them.

    `has_difference` tells a merge of task vectors (`base + 0.7 * (a - base)`) from an average (`0.3 * base + 0.7 * a`).
    """

    text: str
    coefficients: Mapping[str, float]
    has_difference: bool

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the text names."""
        return tuple(self.coefficients)


def parse(text: str) -> Combination:
    """Read an expression and reduce it to coefficients.

    Raises ExpressionError, with the character, for a mistake in the writing, for a product or quotient of models, for
    a sum of a model and a number, and for coefficients that do not sum to 1 (the result would be no model).
    """
    node = _Parser(text).whole()
    values = _reduce(node, text)
    constant = values.pop(None, 0.0)
    names = tuple(dict.fromkeys(_names(node)))
    if not names:
        raise ExpressionError("no model is named", text, 0)
    if constant:
        raise ExpressionError(f"the number {constant:g} is added to a model; numbers only multiply", text, 0)
    coefficients = {name: values[name] for name in names}
    total = sum(coefficients.values())
    if abs(total - 1) > 1e-6:
        raise ExpressionError(
            f"the models' coefficients sum to {total:g}, not to 1, so the result would be no model; write differences "
            "like cpt + 0.8 * (instruct - base) or averages like 0.5 * a + 0.5 * b",
            text,
            0,
        )
    return Combination(text, coefficients, _has_difference(node))


def names_in(text: str) -> tuple[str, ...]:
    """The models that an expression names, without regard to what it means."""
    return tuple(dict.fromkeys(_names(_Parser(text).whole())))


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Binary):
        yield from _names(node.left)
        yield from _names(node.right)


def _has_difference(node: Node) -> bool:
    if not isinstance(node, Binary):
        return isinstance(node, Number) and node.value < 0
    return node.operator == "-" or _has_difference(node.left) or _has_difference(node.right)


def _reduce(node: Node, text: str) -> dict[str | None, float]:
    """Coefficients by model; the key None holds the number without a model."""
    if isinstance(node, Number):
        return {None: node.value}
    if isinstance(node, Name):
        return {node.name: 1.0}
    left, right = _reduce(node.left, text), _reduce(node.right, text)
    if node.operator in "+-":
        sign = 1.0 if node.operator == "+" else -1.0
        return {key: left.get(key, 0.0) + sign * right.get(key, 0.0) for key in {**left, **right}}
    if set(right) != {None} and (node.operator == "/" or set(left) != {None}):
        what = "divided by a model" if node.operator == "/" else "multiplied by another"
        raise ExpressionError(f"a model cannot be {what}; only by a number", text, node.position)
    if node.operator == "/":
        if right[None] == 0:
            raise ExpressionError("division by zero", text, node.position)
        return {key: value / right[None] for key, value in left.items()}
    factor, rest = (left[None], right) if set(left) == {None} else (right[None], left)
    return {key: value * factor for key, value in rest.items()}
