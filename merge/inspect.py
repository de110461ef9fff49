"""What a merge adds up: how large the task vectors are, how far they point apart, and which rows moved.

Two task vectors add only while they are small and nearly independent, and while the rows of chat tokens are whole;
everything here is one pass over the inputs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch

from merge.operands import BLOCK
from merge.planning import Merge
from merge.vocabulary import gather

LARGE_VECTOR = 0.15
"""Relative norm from which a task vector is said to be large: sums of such vectors were measured to fail."""
CLOSE_VECTORS = 0.2
"""Cosine from which two task vectors are said to interfere."""
MOVED_ROW = 0.1
"""Drift from which a special row is said to have moved."""
TOP_ROWS = 20
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class _Sums:
    """Sums over elements of some tensors: squares of the ancestor and of each vector, products of two vectors."""

    ancestor: float = 0.0
    squares: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    conflicts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    both: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, ancestor: torch.Tensor, vectors: Mapping[str, torch.Tensor]) -> None:
        self.ancestor += float(torch.dot(ancestor, ancestor))
        for name, vector in vectors.items():
            self.squares[name] += float(torch.dot(vector, vector))
        for a, b in combinations(vectors, 2):
            self.products[a, b] += float(torch.dot(vectors[a], vectors[b]))
            signs = vectors[a].sign() * vectors[b].sign()
            moved = int(torch.count_nonzero(signs))
            self.both[a, b] += moved
            self.conflicts[a, b] += (moved - int(signs.sum())) // 2

    def relative_norm(self, name: str) -> float:
        """`|vector| / |ancestor|`."""
        return (self.squares[name] / self.ancestor) ** 0.5 if self.ancestor else 0.0

    def cosine(self, a: str, b: str) -> float:
        """`<a, b> / (|a| |b|)`; 0 where one of them is zero."""
        size = (self.squares[a] * self.squares[b]) ** 0.5
        return self.products[a, b] / size if size else 0.0

    def conflict(self, a: str, b: str) -> float:
        """The share of elements moved by both that they move in opposite directions."""
        return self.conflicts[a, b] / self.both[a, b] if self.both[a, b] else 0.0


def inspect(merge: Merge) -> dict[str, Any]:
    """Norms, cosines, sign conflicts and row drift of a merge's task vectors, with warnings.

    Every model is taken relative to the one that is subtracted most (of an average: to the first). Returns

        vectors   {name: {relative_norm, per_layer: [{layer, relative_norm}], per_kind: {kind: relative_norm}}}
        cosines   {"a | b": {cosine, sign_conflict, per_layer: [{layer, cosine, sign_conflict}], per_kind: {...}}}
        row_drift [{model, matrix, token, drift, special}], the special rows and the most moved others
        warnings  [text]

    Embeddings count with the ordinary tokens that all of the models share.
    """
    ancestor, others = _ancestor(merge)
    totals, layers, kinds = _Sums(), defaultdict(_Sums), defaultdict(_Sums)
    for name, base, vectors in _blocks(merge, ancestor, others):
        layer, kind = place_of(name)
        for sums in (totals, kinds[kind], *([layers[layer]] if layer is not None else [])):
            sums.add(base, vectors)
    names = {other: f"{other} - {ancestor}" for other in others}
    pairs = list(combinations(others, 2))
    drift = [row for other in others for row in _row_drift(merge, ancestor, other)]
    report = {
        "vectors": {names[other]: _norms(other, totals, layers, kinds) for other in others},
        "cosines": {f"{names[a]} | {names[b]}": _angles(a, b, totals, layers, kinds) for a, b in pairs},
        "row_drift": drift,
    }
    return report | {"warnings": [*_vector_warnings(report), *_row_warnings(merge, drift)]}


def place_of(name: str) -> tuple[int | None, str]:
    """A tensor's layer (None outside of layers) and kind: `model.layers.3.mlp.up_proj.weight` is 3, `up_proj`."""
    match = _LAYER.search(name)
    parts = [part for part in name.split(".") if part not in ("weight", "bias")]
    return (int(match[1]) if match else None), parts[-1]


def _ancestor(merge: Merge) -> tuple[str, list[str]]:
    weights = merge.combination.coefficients
    name = min(weights, key=lambda model: weights[model])
    ancestor = name if weights[name] < 0 else next(iter(weights))
    return ancestor, [other for other in weights if other != ancestor]


def _blocks(
    merge: Merge, ancestor: str, others: Sequence[str]
) -> Iterator[tuple[str, torch.Tensor, dict[str, torch.Tensor]]]:
    """Each tensor's name, blocks of the ancestor's elements in float32 and of the vectors."""
    for name, info in merge.checkpoints[ancestor].tensors.items():
        models = {model: merge.checkpoints[model] for model in (ancestor, *others)}
        if not info.dtype.is_floating_point or any(name not in model.tensors for model in models.values()):
            continue
        tensors = {model: checkpoint.tensor(name) for model, checkpoint in models.items()}
        by_row = models[ancestor].is_vocabulary(name)
        rows = _shared_rows(merge, list(models)) if by_row else None
        for part in _cut(tensors, rows):
            base = part[ancestor].reshape(-1).float()
            yield name, base, {other: part[other].reshape(-1).float() - base for other in others}


def _cut(
    tensors: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor] | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Every model's tensor in blocks of like elements: all of them in order, or those of the given rows."""
    if rows is None:
        flat = {model: tensor.view(-1) for model, tensor in tensors.items()}
        for begin in range(0, len(next(iter(flat.values()))), BLOCK):
            yield {model: part[begin : begin + BLOCK] for model, part in flat.items()}
        return
    step = max(1, BLOCK // next(iter(tensors.values()))[0].numel())
    for begin in range(0, len(next(iter(rows.values()))), step):
        yield {model: gather(tensors[model], ids[begin : begin + step]) for model, ids in rows.items()}


def _shared_rows(merge: Merge, models: Sequence[str], special: bool = False) -> dict[str, torch.Tensor]:
    """For each model the rows of the tokens that all of them hold: the ordinary ones, or the special ones."""
    first, *rest = (merge.vocabularies[model] for model in models)
    added = {token for model in models for token in merge.vocabularies[model].added}
    tokens = [token for token in first.ids if (token in added) == special and all(token in v.ids for v in rest)]
    rows = {model: torch.tensor([merge.vocabularies[model].ids[token] for token in tokens]) for model in models}
    held = torch.ones(len(tokens), dtype=torch.bool)
    for model, ids in rows.items():
        held &= ids < merge.checkpoints[model].height
    return {model: ids[held].long() for model, ids in rows.items()}


def _norms(name: str, totals: _Sums, layers: Mapping[int, _Sums], kinds: Mapping[str, _Sums]) -> dict[str, Any]:
    return {
        "relative_norm": totals.relative_norm(name),
        "per_layer": [{"layer": layer, "relative_norm": layers[layer].relative_norm(name)} for layer in sorted(layers)],
        "per_kind": {kind: sums.relative_norm(name) for kind, sums in kinds.items()},
    }


def _angles(a: str, b: str, totals: _Sums, layers: Mapping[int, _Sums], kinds: Mapping[str, _Sums]) -> dict[str, Any]:
    def both(sums: _Sums) -> dict[str, float]:
        return {"cosine": sums.cosine(a, b), "sign_conflict": sums.conflict(a, b)}

    return both(totals) | {
        "per_layer": [{"layer": layer, **both(layers[layer])} for layer in sorted(layers)],
        "per_kind": {kind: both(sums) for kind, sums in kinds.items()},
    }


def _row_drift(merge: Merge, ancestor: str, other: str) -> Iterator[dict[str, Any]]:
    """`|row - row_0| / |row_0|` of special rows and of the ordinary rows that moved most, for each matrix.

    Rows that begin near zero, as a padding token's do, are measured against the mean norm.
    """
    models, names = merge.checkpoints, {row: token for token, row in merge.vocabularies[ancestor].ids.items()}
    for matrix in (models[ancestor].embedding, models[ancestor].head):
        if matrix is None or matrix not in models[other].tensors:
            continue
        tensors = {model: models[model].tensor(matrix) for model in (ancestor, other)}
        for special in (True, False):
            rows = _shared_rows(merge, [ancestor, other], special)
            drift = _drift(tensors[ancestor], tensors[other], rows[ancestor], rows[other])
            best = drift.topk(min(len(drift), TOP_ROWS))
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                token = names[int(rows[ancestor][index])]
                yield {"model": other, "matrix": matrix, "token": token, "drift": value, "special": special}


def _drift(base: torch.Tensor, moved: torch.Tensor, base_rows: torch.Tensor, moved_rows: torch.Tensor) -> torch.Tensor:
    """How far each row moved, `[n]`, for matrices `[V, d]` and the rows `[n]` that are compared."""
    step = max(1, BLOCK // base.shape[1])
    norms, distances = [torch.zeros(0)], [torch.zeros(0)]
    for begin in range(0, len(base_rows), step):
        old = gather(base, base_rows[begin : begin + step]).float()
        norms.append(old.norm(dim=1))
        distances.append((gather(moved, moved_rows[begin : begin + step]).float() - old).norm(dim=1))
    norm, distance = torch.cat(norms), torch.cat(distances)
    usual = norm.mean() if len(norm) else norm.sum()
    return distance / torch.where(norm > 0.01 * usual, norm, usual.clamp(min=1e-12))


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
