"""Which model plays which part in a combination: whose vocabulary is kept, whose chat tokens, which differences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from merge.errors import MergeError
from merge.expression import Combination


@dataclass(frozen=True)
class Vector:
    """A weighted difference of two models: `weight * (minuend - subtrahend)`."""

    weight: float
    minuend: str
    subtrahend: str


@dataclass(frozen=True)
class Roles:
    """The combination as `anchor + sum of vectors`.

    The output takes the anchor's vocabulary, tokenizer and configuration; rows of special and chat tokens, the chat
    template and the stop tokens come from `special_from`, or from the formula and the anchor where it is None.
    """

    anchor: str
    special_from: str | None
    vectors: tuple[Vector, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that must be read."""
        names = [self.anchor, *([self.special_from] if self.special_from else [])]
        for vector in self.vectors:
            names += [vector.minuend, vector.subtrahend]
        return tuple(dict.fromkeys(names))


def assign(
    combination: Combination,
    pieces: Mapping[str, Collection[str]],
    has_chat_template: Callable[[str], bool],
    vocabulary_from: str | None = None,
    special_from: str | None = None,
) -> Roles:
    """Find the roles; `vocabulary_from` and `special_from` decide where they are given.

    `pieces` are each model's ordinary tokens. The anchor is the first model with a positive coefficient, unless
    another positive one knows all of its pieces and more. Chat tokens come from the model whose task vector is added:
    the first minuend of a difference that has a chat template. If none has one, from the anchor where that has one,
    else from the first minuend. An average has no such model.
    """
    for key, name in (("vocabulary_from", vocabulary_from), ("special_from", special_from)):
        if name is not None and name not in combination.coefficients:
            known = ", ".join(combination.models)
            raise MergeError(f"{key} is '{name}', which '{combination.text}' does not name (it names {known})")
    anchor = vocabulary_from or _widest(combination, pieces)
    vectors = _vectors(combination, anchor)
    if special_from is None:
        special_from = _chat_model(combination, anchor, vectors, has_chat_template)
    return Roles(anchor, special_from, vectors)


def _widest(combination: Combination, pieces: Mapping[str, Collection[str]]) -> str:
    positive = [name for name, weight in combination.coefficients.items() if weight > 0]
    anchor = positive[0]
    for name in positive[1:]:
        if set(pieces[name]) > set(pieces[anchor]):
            anchor = name
    return anchor


def _vectors(combination: Combination, anchor: str) -> tuple[Vector, ...]:
    """`combination - anchor` as differences: what is added is set against what is taken away, in the text's order."""
    rest = dict(combination.coefficients)
    rest[anchor] -= 1
    added = [[name, weight] for name, weight in rest.items() if weight > 1e-12]
    taken = [[name, -weight] for name, weight in rest.items() if weight < -1e-12]
    vectors = []
    while added and taken:
        weight = min(added[0][1], taken[0][1])
        vectors.append(Vector(weight, added[0][0], taken[0][0]))
        for queue in (added, taken):
            queue[0][1] -= weight
            if queue[0][1] <= 1e-12:
                queue.pop(0)
    return tuple(vectors)


def _chat_model(
    combination: Combination, anchor: str, vectors: tuple[Vector, ...], has_chat_template: Callable[[str], bool]
) -> str | None:
    candidates = [vector.minuend for vector in vectors if vector.subtrahend != anchor or combination.has_difference]
    with_template = [name for name in candidates if has_chat_template(name)]
    if with_template or not candidates:
        return with_template[0] if with_template else None
    return anchor if has_chat_template(anchor) else candidates[0]
