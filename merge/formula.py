"""What an expression means: models, differences of models, and calls of methods on them.

Everything linear is reduced to coefficients, so `base + (a - base)` is `a`. A value is a model (its coefficients sum to
1) or a task vector (they sum to 0, or it is an adapter or a saved vector); anything else is no value.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from merge.errors import ExpressionError
from merge.expression import Binary, Listing, Name, Node, Number, syntax
from merge.expression import Call as CallNode

_NOTHING = 1e-12
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Leaf:
    """A model, adapter or saved task vector, by its name."""

    name: str


@dataclass(frozen=True)
class Difference:
    """`weight * (minuend - subtrahend)`; without a subtrahend the minuend is itself a task vector."""

    weight: float
    minuend: Formula
    subtrahend: Formula | None


@dataclass(frozen=True)
class Linear:
    """`start + sum of differences`; without a start it is a task vector."""

    start: Formula | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Call:
    """A method on models: `common` are its parameters, `each` those that every model has for itself."""

    method: str
    models: tuple[Formula, ...]
    base: Formula | None
    common: tuple[tuple[str, Any], ...] = ()
    each: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    seed: int = 0


Formula = Leaf | Linear | Call
Terms = Mapping[Any, float]


@dataclass(frozen=True)
class Combination:
    """An expression as `sum_t terms[t] * t`, each term a `Leaf` or a `Call`, in the order in which the text names them.

    `has_difference` tells a merge of task vectors (`base + 0.7 * (a - base)`) from an average (`0.3 * base + 0.7 * a`).
    `vectors` are the names of adapters and saved task vectors, `models` all other names.
    """

    text: str
    terms: Terms
    has_difference: bool
    names: tuple[str, ...]
    vectors: frozenset[str] = frozenset()

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the text names."""
        return tuple(name for name in self.names if name not in self.vectors)

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficients of the models that stand outside of calls."""
        return {term.name: weight for term, weight in self.terms.items() if isinstance(term, Leaf)}

    @property
    def positive(self) -> tuple[str, ...]:
        """The models that the result is made of, in order."""
        found = (_made_of(term) for term, weight in self.terms.items() if weight > 0 and not self._vector(term))
        return tuple(dict.fromkeys(name for names in found for name in names if name not in self.vectors))

    @property
    def references(self) -> tuple[str, ...]:
        """The models that others are set against: those subtracted, and the bases of calls."""
        taken = [term.name for term, weight in self.terms.items() if isinstance(term, Leaf) and weight < 0]
        calls = [name for term in self.terms for name in _bases(term)]
        return tuple(dict.fromkeys(taken + calls))

    def vector(self) -> Linear:
        """A combination that is a task vector, as differences alone."""
        begin = Leaf(self.positive[0])
        moved = self.terms | {begin: self.terms[begin] + 1.0}
        whole = linear(moved, begin, self.vectors)
        return Linear(None, whole.differences if isinstance(whole, Linear) else ())

    def _vector(self, term: Formula) -> bool:
        return isinstance(term, Leaf) and term.name in self.vectors

    def formula(self, start: str) -> Formula:
        """The combination as a model and differences; it starts from `start` where that is one of its terms."""
        return linear(self.terms, Leaf(start) if self.terms.get(Leaf(start), 0) > 0 else None, self.vectors)


def parse(text: str, vectors: Collection[str] = (), total: int = 1) -> Combination:
    """Read an expression and reduce it; the names in `vectors` are adapters or saved task vectors.

    `total` is what the models' coefficients must sum to: 1 for a model, 0 for a task vector.

    Raises ExpressionError, with the character, for a mistake in the writing, for a product or quotient of models, for
    a sum of a model and a number, for coefficients that do not sum to 1 (the result would be no model), and for a
    method or parameter that there is not.
    """
    node = syntax(text)
    names = tuple(dict.fromkeys(names_of(node)))
    reader = _Reader(text, frozenset(vectors))
    values = reader.reduce(node)
    constant = values.pop(None, 0.0)
    if not names:
        raise ExpressionError("no model is named", text, 0)
    if constant:
        raise ExpressionError(f"the number {constant:g} is added to a model; numbers only multiply", text, 0)
    reader.check_sum(values, total, 0)
    return Combination(text, values, _has_difference(node), names, frozenset(vectors))


def names_in(text: str) -> tuple[str, ...]:
    """The models that an expression names, without regard to what it means."""
    return tuple(dict.fromkeys(names_of(syntax(text))))


def names_of(node: Node) -> Iterator[str]:
    """Every name of a model under a node; words that are values of parameters are none."""
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Binary):
        yield from names_of(node.left)
        yield from names_of(node.right)
    elif isinstance(node, Listing):
        for item in node.items:
            yield from names_of(item.value)
    elif isinstance(node, CallNode):
        for argument in node.arguments:
            if argument.keyword in (None, "base", "models"):
                yield from names_of(argument.value)


def pair(terms: Mapping[T, float], start: T) -> list[tuple[float, T, T]]:
    """`sum of terms - start` as differences `(weight, a, b)`: what is added against what is taken away, in order."""
    rest = dict(terms)
    rest[start] -= 1
    added = [[term, weight] for term, weight in rest.items() if weight > _NOTHING]
    taken = [[term, -weight] for term, weight in rest.items() if weight < -_NOTHING]
    found = []
    while added and taken:
        weight = min(added[0][1], taken[0][1])
        found.append((weight, added[0][0], taken[0][0]))
        for queue in (added, taken):
            queue[0][1] -= weight
            if queue[0][1] <= _NOTHING:
                queue.pop(0)
    return found


def linear(terms: Terms, start: Formula | None = None, vectors: Collection[str] = ()) -> Formula:
    """Terms that sum to 1 as a formula; adapters and saved vectors are added as they are."""
    points = {term: weight for term, weight in terms.items() if not (isinstance(term, Leaf) and term.name in vectors)}
    begin = start or next(term for term, weight in points.items() if weight > 0)
    differences = [Difference(*found) for found in pair(points, begin)]
    differences += [Difference(weight, term, None) for term, weight in terms.items() if term not in points and weight]
    return Linear(begin, tuple(differences)) if differences else begin


def leaves(formula: Formula | None) -> Iterator[str]:
    """The names in a formula, each time that it stands there."""
    if isinstance(formula, Leaf):
        yield formula.name
    elif isinstance(formula, Linear):
        yield from leaves(formula.start)
        for difference in formula.differences:
            yield from leaves(difference.minuend)
            yield from leaves(difference.subtrahend)
    elif isinstance(formula, Call):
        yield from leaves(formula.base)
        for model in formula.models:
            yield from leaves(model)


def _made_of(formula: Formula) -> Iterator[str]:
    if isinstance(formula, Leaf):
        yield formula.name
    elif isinstance(formula, Linear):
        yield from _made_of(formula.start)
        for difference in formula.differences:
            yield from _made_of(difference.minuend)
    else:
        for model in _mixed(formula):
            yield from _made_of(model)


def _mixed(call: Call) -> tuple[Formula, ...]:
    """The models that a call mixes; a base counts where it is one of them, as in slerp(a, b)."""
    from merge.methods import METHODS

    mixed_base = (call.base,) if call.base is not None and not METHODS[call.method].ancestor else ()
    return (*mixed_base, *call.models)


def _bases(formula: Formula | None) -> Iterator[str]:
    if isinstance(formula, Call):
        yield from (name for name in leaves(formula.base) if formula.base not in _mixed(formula))
        for model in _mixed(formula):
            yield from _bases(model)
    elif isinstance(formula, Linear):
        yield from _bases(formula.start)
        for difference in formula.differences:
            yield from leaves(difference.subtrahend)


def _has_difference(node: Node) -> bool:
    if isinstance(node, CallNode):
        return any(_has_base(argument.keyword, node.method) for argument in node.arguments)
    if not isinstance(node, Binary):
        return isinstance(node, Number) and node.value < 0
    return node.operator == "-" or _has_difference(node.left) or _has_difference(node.right)


def _has_base(keyword: str | None, method: str) -> bool:
    from merge.methods import METHODS

    return keyword == "base" or (method in METHODS and METHODS[method].base == "required" and METHODS[method].ancestor)


class _Reader:
    """Reduces the syntax of one text."""

    def __init__(self, text: str, vectors: frozenset[str]) -> None:
        self.text, self.vectors = text, vectors

    def fail(self, message: str, position: int) -> ExpressionError:
        return ExpressionError(message, self.text, position)

    def reduce(self, node: Node) -> dict[Any, float]:
        """Coefficients by term; the key None holds the number without a model."""
        if isinstance(node, Number):
            return {None: node.value}
        if isinstance(node, Name):
            return {Leaf(node.name): 1.0}
        if isinstance(node, CallNode):
            from merge.calls import bind

            return {bind(node, self): 1.0}
        if isinstance(node, Listing):
            raise self.fail("a list stands only among the arguments of a method", node.position)
        left, right = self.reduce(node.left), self.reduce(node.right)
        if node.operator in "+-":
            sign = 1.0 if node.operator == "+" else -1.0
            return {key: left.get(key, 0.0) + sign * right.get(key, 0.0) for key in {**left, **right}}
        return self._scaled(node, left, right)

    def _scaled(self, node: Binary, left: dict[Any, float], right: dict[Any, float]) -> dict[Any, float]:
        if set(right) != {None} and (node.operator == "/" or set(left) != {None}):
            what = "divided by a model" if node.operator == "/" else "multiplied by another"
            raise self.fail(f"a model cannot be {what}; only by a number", node.position)
        if node.operator == "/":
            if right[None] == 0:
                raise self.fail("division by zero", node.position)
            return {key: value / right[None] for key, value in left.items()}
        factor, rest = (left[None], right) if set(left) == {None} else (right[None], left)
        return {key: value * factor for key, value in rest.items()}

    def total(self, terms: Terms) -> float:
        """The sum of the models' coefficients: 1 for a model, 0 for a task vector."""
        return sum(w for term, w in terms.items() if not (isinstance(term, Leaf) and term.name in self.vectors))

    def check_sum(self, terms: Terms, wanted: int, position: int) -> None:
        """Raise where the coefficients of the models do not sum to what they must."""
        total = self.total(terms)
        if abs(total - wanted) > 1e-6:
            advice = (
                "so the result would be no model; write differences like cpt + 0.8 * (instruct - base) or averages "
                "like 0.5 * a + 0.5 * b"
                if wanted
                else "so it is no task vector; write a difference like instruct - base"
            )
            raise self.fail(f"the models' coefficients sum to {total:g}, not to {wanted}, {advice}", position)
