"""Expressions over models: `cpt + 0.8 * (instruct - base)`, `ties(base, [a: 1.0, b: 0.5], density=0.3)`.

    sum      = product { ("+" | "-") product }
    product  = factor { ("*" | "/") factor }
    factor   = ["-" | "+"] factor | number | name | call | "(" sum ")"
    call     = name "(" argument { "," argument } ")"
    argument = [name "="] ( list | sum )
    list     = "[" item { "," item } "]"          item = sum [":" sum]

A name is a word of letters, digits, `_` and `.`, or anything in double quotes (for names with a `-`). This is the
syntax alone; what an expression means is `merge.formula`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from merge.errors import ExpressionError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d][\w.]*)"
    r'|"(?P<quoted>[^"]*)"|(?P<symbol>[-+*/()\[\],:=]))'
)


@dataclass(frozen=True)
class Number:
    """A number, at a place of the text."""

    value: float
    position: int


@dataclass(frozen=True)
class Name:
    """A model, or a word that is a parameter's value, at a place of the text."""

    name: str
    position: int


@dataclass(frozen=True)
class Binary:
    """Two parts and `+`, `-`, `*` or `/` between them; the position is that of the sign."""

    operator: str
    left: Node
    right: Node
    position: int


@dataclass(frozen=True)
class Item:
    """An entry of a list, with what stands behind its colon."""

    value: Node
    weight: Node | None


@dataclass(frozen=True)
class Listing:
    """A list of models, with weights or without, or of numbers."""

    items: tuple[Item, ...]
    position: int


@dataclass(frozen=True)
class Argument:
    """What is given to a call, under a keyword or not; `position` is that of the keyword or the value."""

    keyword: str | None
    value: Node
    position: int


@dataclass(frozen=True)
class Call:
    """A method with its arguments."""

    method: str
    arguments: tuple[Argument, ...]
    position: int


Node = Number | Name | Binary | Listing | Call


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
                f"'{text[start]}' means nothing here; write +, -, *, /, ( ), numbers, models and methods", text, start
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

    def at(self, symbols: str, ahead: int = 0) -> bool:
        token = self.tokens[min(self.index + ahead, len(self.tokens) - 1)]
        return token.kind == "symbol" and token.text in symbols

    def close(self, symbol: str, expected: str) -> None:
        if not self.at(symbol):
            raise self.fail(expected)
        self.take()

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
        while self.at(operators):
            sign = self.take()
            node = Binary(sign.text, node, part(), sign.position)
        return node

    def factor(self) -> Node:
        if self.at("+-"):
            sign = self.take()
            return Binary("*", Number(-1.0 if sign.text == "-" else 1.0, sign.position), self.factor(), sign.position)
        if self.next.kind == "number":
            token = self.take()
            return Number(float(token.text), token.position)
        if self.next.kind == "name":
            return self.call() if self.at("(", ahead=1) else Name(self.next.text, self.take().position)
        if self.at("("):
            self.take()
            node = self.sum()
            self.close(")", "')'")
            return node
        raise self.fail("a model, a number or '('")

    def call(self) -> Call:
        name = self.take()
        self.take()
        arguments = [self.argument()]
        while self.at(","):
            self.take()
            arguments.append(self.argument())
        self.close(")", "',' or ')'")
        return Call(name.text, tuple(arguments), name.position)

    def argument(self) -> Argument:
        start = self.next.position
        keyword = None
        if self.next.kind == "name" and self.at("=", ahead=1):
            keyword = self.take().text
            self.take()
        return Argument(keyword, self.listing() if self.at("[") else self.sum(), start)

    def listing(self) -> Listing:
        start = self.take().position
        items = [self.item()]
        while self.at(","):
            self.take()
            items.append(self.item())
        self.close("]", "',' or ']'")
        return Listing(tuple(items), start)

    def item(self) -> Item:
        value = self.sum()
        if not self.at(":"):
            return Item(value, None)
        self.take()
        return Item(value, self.sum())


def syntax(text: str) -> Node:
    """Read an expression. Raises ExpressionError, with the character, for a mistake in the writing."""
    return _Parser(text).whole()
