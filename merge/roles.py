"""Which model plays which part in a combination: whose vocabulary is kept, whose chat tokens, which differences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from merge.errors import MergeError
from merge.formula import Call, Combination, leaves, pair


@dataclass(frozen=True)
class Vector:
    """A weighted difference of two models: `weight * (minuend - subtrahend)`."""

    weight: float
    minuend: str
    subtrahend: str


@dataclass(frozen=True)
class Roles:
    """Who plays which part; `vectors` are the differences that count, between models outside and inside of calls.

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
    if not combination.positive:
        raise MergeError(f"'{combination.text}' adds no model; write a difference like instruct - base")
    for key, name in (("vocabulary_from", vocabulary_from), ("special_from", special_from)):
        if name is not None and name not in pieces:
            known = ", ".join(pieces)
            raise MergeError(f"{key} is '{name}', which '{combination.text}' does not name (it names {known})")
    anchor = vocabulary_from or _widest(combination, pieces)
    vectors = _vectors(combination, anchor, pieces)
    if special_from is None:
        special_from = _chat_model(combination, anchor, vectors, has_chat_template)
    return Roles(anchor, special_from, vectors)


def _widest(combination: Combination, pieces: Mapping[str, Collection[str]]) -> str:
    positive = combination.positive
    anchor = positive[0]
    for name in positive[1:]:
        if set(pieces[name]) > set(pieces[anchor]):
            anchor = name
    return anchor


def _vectors(combination: Combination, anchor: str, pieces: Collection[str]) -> tuple[Vector, ...]:
    """`combination - anchor` as differences, what is added against what is taken away in the text's order; a call sets
    its models against its base, or against the anchor where it has none; a saved task vector stands for itself."""
    models = {name: w for name, w in combination.coefficients.items() if name not in combination.vectors}
    if anchor in models and abs(sum(models.values())) < 1e-6:
        models[anchor] += 1
    if abs(sum(models.values()) - 1) < 1e-6:
        vectors = [Vector(*found) for found in pair({anchor: 0.0} | models, anchor)]
    else:
        vectors = [Vector(abs(weight), name, anchor) for name, weight in models.items() if weight and name != anchor]
    vectors += [Vector(1.0, name, name) for name in pieces if name in combination.vectors]
    for term, weight in combination.terms.items():
        if isinstance(term, Call):
            reference = next(leaves(term.base), anchor)
            names = dict.fromkeys(leaves(term))
            vectors += [Vector(weight, n, reference) for n in names if n != reference and n not in combination.vectors]
    return tuple(vectors)


def _chat_model(
    combination: Combination, anchor: str, vectors: tuple[Vector, ...], has_chat_template: Callable[[str], bool]
) -> str | None:
    candidates = [vector.minuend for vector in vectors if vector.subtrahend != anchor or combination.has_difference]
    with_template = [name for name in candidates if has_chat_template(name)]
    if with_template or not candidates:
        return with_template[0] if with_template else None
    return anchor if has_chat_template(anchor) else candidates[0]
