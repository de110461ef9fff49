"""What a merge adds up: how large the task vectors are, how far they point apart, and which rows moved.

Two task vectors add only while they are small and nearly independent, and while the rows of chat tokens are whole;
everything here is one pass over the inputs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from merge.kinds import KINDS, kind_of
from merge.parallel import at_once
from merge.planning import Merge
from merge.row_drift import row_drift
from merge.vector_sums import Sums, sums_by_tensor

LARGE_VECTOR = 0.15
"""Relative norm from which a task vector is said to be large: sums of such vectors were measured to fail."""
CLOSE_VECTORS = 0.2
"""Cosine from which two task vectors are said to interfere."""
MOVED_ROW = 0.1
"""Drift from which a special row is said to have moved."""
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class _Totals:
    """The sums of all tensors, of each layer, of each matrix of a layer by its name, and of each kind of module."""

    whole: Sums
    layers: Mapping[int, Sums]
    matrices: Mapping[str, Sums]
    kinds: Mapping[str, Sums]


def inspect(merge: Merge, threads: int | None = None) -> dict[str, Any]:
    """Norms, cosines, sign conflicts and row drift of a merge's task vectors, with warnings.

    Every model is taken relative to the one that is subtracted most, else to the base of a call, else to the first;
    adapters and saved task vectors are vectors as they are. Returns

        vectors   {name: {relative_norm, per_layer: [{layer, relative_norm, energy}], per_kind: {kind: relative_norm},
                   modules: {attention: {relative_norm, energy}, ...}}}
        cosines   {"a | b": {cosine, sign_conflict, per_layer: [{layer, cosine, sign_conflict}], per_kind: {...},
                   modules: {attention: {cosine, sign_conflict}, ...}}}
        row_drift [{model, matrix, token, drift, special}], the special rows and the most moved others
        warnings  [text]

    `energy` is the share of the vector's squared norm; `per_kind` goes by the name of the matrix (`q_proj`), `modules`
    by what it belongs to. Embeddings count with the ordinary tokens that all of the models share. A vector is warned
    of above `LARGE_VECTOR` of the weights' norm, a pair above a cosine of `CLOSE_VECTORS`, special rows above
    `MOVED_ROW` of their norm. `threads` is the number of tensors at once (default: one for each core). Raises
    MergeError for NaN or infinity.
    """
    ancestor, others = _ancestor(merge)
    totals = _totals(sums_by_tensor(merge, ancestor, others, threads) if others else {})
    names = {other: other if other in merge.combination.vectors else f"{other} - {ancestor}" for other in others}
    pairs = list(combinations(others, 2))
    models = [other for other in others if other not in merge.combination.vectors]
    drift = [row for rows in at_once(lambda m: list(row_drift(merge, ancestor, m)), models, threads) for row in rows]
    report = {
        "vectors": {names[other]: _norms(other, totals) for other in others},
        "cosines": {f"{names[a]} | {names[b]}": _angles(a, b, totals) for a, b in pairs},
        "row_drift": drift,
    }
    return report | {"warnings": [*_vector_warnings(report), *_row_warnings(merge, drift)]}


def place_of(name: str) -> tuple[int | None, str]:
    """A tensor's layer (None outside of layers) and kind: `model.layers.3.mlp.up_proj.weight` is 3, `up_proj`."""
    match = _LAYER.search(name)
    parts = [part for part in name.split(".") if part not in ("weight", "bias")]
    return (int(match[1]) if match else None), parts[-1]


def _ancestor(merge: Merge) -> tuple[str, list[str]]:
    combination = merge.combination
    weights = {name: w for name, w in combination.coefficients.items() if name not in combination.vectors}
    least = min(weights, key=lambda model: weights[model], default=None)
    if least is not None and weights[least] < 0:
        ancestor = least
    else:
        ancestor = next(iter((*combination.references, *combination.models)))
    return ancestor, [name for name in combination.names if name != ancestor]


def _totals(by_tensor: Mapping[str, Sums]) -> _Totals:
    whole, layers, matrices, kinds = Sums(), defaultdict(Sums), defaultdict(Sums), defaultdict(Sums)
    for name, sums in by_tensor.items():
        layer, matrix = place_of(name)
        for total in (whole, matrices[matrix], kinds[kind_of(name)], *([layers[layer]] if layer is not None else [])):
            total.add(sums)
    ordered = {kind: kinds[kind] for kind in KINDS if kind in kinds}
    return _Totals(whole, dict(sorted(layers.items())), matrices, ordered)


def _norms(name: str, totals: _Totals) -> dict[str, Any]:
    def part(sums: Sums) -> dict[str, float]:
        return {"relative_norm": sums.relative_norm(name), "energy": sums.energy(name, totals.whole)}

    return {
        "relative_norm": totals.whole.relative_norm(name),
        "per_layer": [{"layer": layer, **part(sums)} for layer, sums in totals.layers.items()],
        "per_kind": {matrix: sums.relative_norm(name) for matrix, sums in totals.matrices.items()},
        "modules": {kind: part(sums) for kind, sums in totals.kinds.items()},
    }


def _angles(a: str, b: str, totals: _Totals) -> dict[str, Any]:
    def part(sums: Sums) -> dict[str, float]:
        return {"cosine": sums.cosine(a, b), "sign_conflict": sums.conflict(a, b)}

    return part(totals.whole) | {
        "per_layer": [{"layer": layer, **part(sums)} for layer, sums in totals.layers.items()],
        "per_kind": {matrix: part(sums) for matrix, sums in totals.matrices.items()},
        "modules": {kind: part(sums) for kind, sums in totals.kinds.items()},
    }


def _vector_warnings(report: Mapping[str, Any]) -> Iterator[str]:
    for name, vector in report["vectors"].items():
        if vector["relative_norm"] > LARGE_VECTOR:
            yield (
                f"the task vector {name} has {vector['relative_norm']:.2f} of the norm of the weights; sums of vectors "
                f"above {LARGE_VECTOR} often lose both models' abilities: train at a lower rate or with more replay"
            )
    for names, pair in report["cosines"].items():
        if abs(pair["cosine"]) > CLOSE_VECTORS:
            yield f"the task vectors {names} are not independent (cosine {pair['cosine']:.2f}), so they interfere"


def _row_warnings(merge: Merge, drift: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Special rows that moved in a model that should not have touched them."""
    for model in dict.fromkeys(row["model"] for row in drift):
        moved = [row for row in drift if row["model"] == model and row["special"] and row["drift"] > MOVED_ROW]
        if moved and model != merge.chat.name:
            worst = max(moved, key=lambda row: row["drift"])
            source = f"they are taken from '{merge.chat.name}'" if merge.roles.special_from else "they are averaged"
            yield (
                f"'{model}' moved {len({row['token'] for row in moved})} special rows, '{worst['token']}' by "
                f"{worst['drift']:.2f} of its norm; {source}"
            )
