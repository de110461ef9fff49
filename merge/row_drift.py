"""How far the rows of tokens moved in training: which special tokens, and which ordinary ones most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from merge.planning import Merge
from merge.vector_sums import operands_of, shared_rows

TOP_ROWS = 20
"""Rows that are listed of each matrix: so many special ones, so many ordinary ones."""


def row_drift(merge: Merge, ancestor: str, other: str) -> Iterator[dict[str, Any]]:
    """`|row - row_0| / |row_0|` of special rows and of the ordinary rows that moved most, for each matrix.

    Rows that begin near zero, as a padding token's do, are measured against the mean norm.
    """
    models, names = merge.checkpoints, {row: token for token, row in merge.vocabularies[ancestor].ids.items()}
    both = {special: shared_rows(merge, [ancestor, other], special) for special in (True, False)}
    for matrix in (models[ancestor].embedding, models[ancestor].head):
        if matrix is None or matrix not in models[other].tensors:
            continue
        for special, rows in both.items():
            drift = _drift(merge, matrix, ancestor, other, rows)
            best = drift.topk(min(len(drift), TOP_ROWS))
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                token = names[int(rows[ancestor][index])]
                yield {"model": other, "matrix": matrix, "token": token, "drift": value, "special": special}


def _drift(merge: Merge, matrix: str, ancestor: str, other: str, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How far each row of a matrix moved, `[n]`, for the rows `[n]` that are compared."""
    target, operands = operands_of(merge, matrix, ancestor, [other], rows)
    norms, distances = [torch.zeros(0)], [torch.zeros(0)]
    for first, last in target.cuts():
        old = operands[ancestor].rows(first, last)
        norms.append(old.norm(dim=1))
        distances.append(operands[other].rows(first, last).sub_(old).norm(dim=1))
    norm, distance = torch.cat(norms), torch.cat(distances)
    usual = norm.mean() if len(norm) else norm.sum()
    return distance / torch.where(norm > 0.01 * usual, norm, usual.clamp(min=1e-12))
