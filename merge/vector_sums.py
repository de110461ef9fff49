"""Squares, products and signs of task vectors, in one pass over the inputs: blocks, several tensors at once."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch

from merge.demand import TOGETHER, threads_within
from merge.device import CPU, block_size
from merge.errors import MergeError
from merge.formula import Leaf
from merge.hashes import Hashes
from merge.operands import Inputs, Operand, Target, operand
from merge.parallel import at_once
from merge.parameters import Place
from merge.planning import Merge, target_of
from merge.writer import Output


@dataclass
class Sums:
    """Sums over elements of some tensors: squares of the ancestor and of each vector, products of two vectors.

    `conflicts` counts elements that two vectors move in opposite directions, `both` those that both of them move.
    """

    ancestor: float = 0.0
    squares: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    products: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    conflicts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    both: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add_block(self, ancestor: torch.Tensor, vectors: Mapping[str, torch.Tensor]) -> None:
        """Take in a block: flat float32 tensors of one length, at most 2^24 elements."""
        self.ancestor += float(torch.dot(ancestor, ancestor))
        for name, vector in vectors.items():
            self.squares[name] += float(torch.dot(vector, vector))
        for a, b in combinations(vectors, 2):
            product = vectors[a] * vectors[b]
            self.products[a, b] += float(product.sum())
            signs = torch.sign(product, out=product)
            moved = int(torch.dot(signs, signs))
            self.both[a, b] += moved
            self.conflicts[a, b] += (moved - int(signs.sum())) // 2

    def add(self, other: Sums) -> None:
        """Take in the sums of other tensors."""
        self.ancestor += other.ancestor
        for mine, theirs in (
            (self.squares, other.squares),
            (self.products, other.products),
            (self.conflicts, other.conflicts),
            (self.both, other.both),
        ):
            for key, value in theirs.items():
                mine[key] += value

    def relative_norm(self, name: str) -> float:
        """`|vector| / |ancestor|`."""
        return (self.squares[name] / self.ancestor) ** 0.5 if self.ancestor else 0.0

    def energy(self, name: str, total: Sums) -> float:
        """The share of the vector's squared norm that lies in these tensors."""
        return self.squares[name] / total.squares[name] if total.squares[name] else 0.0

    def cosine(self, a: str, b: str) -> float:
        """`<a, b> / (|a| |b|)`; 0 where one of them is zero."""
        size = (self.squares[a] * self.squares[b]) ** 0.5
        return self.products[a, b] / size if size else 0.0

    def conflict(self, a: str, b: str) -> float:
        """The share of elements moved by both that they move in opposite directions."""
        return self.conflicts[a, b] / self.both[a, b] if self.both[a, b] else 0.0


def sums_by_tensor(merge: Merge, ancestor: str, others: Sequence[str], threads: int | None = None) -> dict[str, Sums]:
    """The sums of each tensor that every model has, for `others` taken relative to `ancestor`.

    Adapters and saved task vectors among the others are vectors as they are. Embeddings count with the ordinary
    tokens that all of the models share. Memory: a few blocks of each input for each thread. Raises MergeError for NaN
    or infinity.
    """
    rows = shared_rows(merge, [name for name in (ancestor, *others) if name in merge.checkpoints])
    names = _tensors(merge, ancestor, others)
    order = sorted(names, key=lambda name: -merge.checkpoints[ancestor].tensors[name].size)
    held = 2 * 4 * block_size(CPU) * (len(others) + 2)  # each model's block as it is read and converted, a product
    most = threads_within(TOGETHER, threads or len(os.sched_getaffinity(0)), [held] * len(order))
    found = at_once(lambda name: _sums(merge, name, ancestor, others, rows), order, most)
    by_name = dict(zip(order, found, strict=True))
    return {name: by_name[name] for name in names}


def shared_rows(merge: Merge, models: Sequence[str], special: bool = False) -> dict[str, torch.Tensor]:
    """For each model the rows of the tokens that all of them hold: the ordinary ones, or the special ones."""
    first, *rest = (merge.vocabularies[model] for model in models)
    added = {token for model in models for token in merge.vocabularies[model].added}
    tokens = [token for token in first.ids if (token in added) == special and all(token in v.ids for v in rest)]
    rows = {model: torch.tensor([merge.vocabularies[model].ids[token] for token in tokens]) for model in models}
    held = torch.ones(len(tokens), dtype=torch.bool)
    for model, ids in rows.items():
        held &= ids < merge.checkpoints[model].height
    return {model: ids[held].long() for model, ids in rows.items()}


def _tensors(merge: Merge, ancestor: str, others: Sequence[str]) -> list[str]:
    models = [merge.checkpoints[name] for name in others if name in merge.checkpoints]
    return [
        name
        for name, info in merge.checkpoints[ancestor].tensors.items()
        if info.dtype.is_floating_point and all(name in model.tensors for model in models)
    ]


def _sums(merge: Merge, name: str, ancestor: str, others: Sequence[str], rows: Mapping[str, torch.Tensor]) -> Sums:
    target, operands = operands_of(merge, name, ancestor, others, rows)
    sums = Sums()
    for first, last in target.cuts():
        base = operands[ancestor].rows(first, last).reshape(-1)
        vectors = {other: operands[other].rows(first, last).reshape(-1) for other in others}
        for other, vector in vectors.items():
            if other not in merge.combination.vectors:
                vector.sub_(base)
        sums.add_block(base, vectors)
    if not all(map(math.isfinite, (sums.ancestor, *sums.squares.values()))):
        raise MergeError(f"'{name}' holds NaN or infinity in '{_culprit(sums, ancestor)}'")
    return sums


def _culprit(sums: Sums, ancestor: str) -> str:
    if not math.isfinite(sums.ancestor):
        return ancestor
    return next(name for name, square in sums.squares.items() if not math.isfinite(square))


def operands_of(
    merge: Merge, name: str, ancestor: str, others: Sequence[str], rows: Mapping[str, torch.Tensor]
) -> tuple[Target, dict[str, Operand]]:
    """A tensor of each model as rows of equal meaning; `rows` are those of an embedding that count."""
    model = merge.checkpoints[ancestor]
    info, by_token = model.tensors[name], model.is_vocabulary(name)
    shape = (len(rows[ancestor]), *info.shape[1:]) if by_token else info.shape
    part = merge.parts.get(name)
    target = target_of(Output(name, info.dtype, shape), part.place if part else Place(name), by_token)
    names = dict.fromkeys(merge.checkpoints, name)
    inputs = Inputs(merge.checkpoints, rows, names, torch.float32, Hashes(), merge.adapters)
    return target, {other: operand(Leaf(other), target, inputs) for other in (ancestor, *others)}
