"""Learned embedding propagation: rows that one model learned, carried into the embedding space of its relative.

A base was trained on with a grown vocabulary, its instruct model was not. A map W from the base's old rows X to the
instruct model's Y, `W = argmin |X W - Y|_F`, takes the rows that training gave the new tokens along: `E_new W`.
Tikhomirov and Chernyshev 2024, "Facilitating large language model Russian adaptation with Learned Embedding
Propagation" (arXiv 2412.21140). Embedding and head have a map each. Modes:

    swap         W = I: the rows of the continued pre-training as they are
    overlap      X and Y are the rows of ordinary tokens that both models and the grown vocabulary have
    conversion   both old matrices are rewritten in the grown vocabulary, a new token as the mean of its constituents
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from merge.checkpoint import Checkpoint
from merge.constituents import constituents
from merge.errors import MergeError
from merge.formula import Call, Difference, Formula, Leaf, Linear
from merge.least_squares import DeficientError, Fit, fit
from merge.operands import Inputs, LeafOperand, Operand, Target
from merge.parameters import Place
from merge.planning import Merge, prepare
from merge.scratch import scratch
from merge.writer import Output

MODES = ("swap", "overlap", "conversion")
NEW_ROWS = ("cpt", "lep-overlap", "lep-conversion")
"""Where the rows of tokens come from that no difference of a merge knows: the model that has them, or LEP."""
_ROWS = 512


@dataclass(frozen=True)
class Carried:
    """The `chosen` rows `[height]` of the output that go through maps, `vectors` their `(weight, to, from)`."""

    mode: str
    chosen: torch.Tensor
    vectors: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class Propagation:
    """The change `row D` of the `chosen` rows `[height]` of the matrices in `changes`, rows taken from `anchor`."""

    anchor: str
    chosen: torch.Tensor
    changes: Mapping[str, torch.Tensor]

    def __call__(self, target: Target, inputs: Inputs) -> Operand:
        """The update of one tensor."""
        change = self.changes[target.name].to(inputs.device)
        return RowChange(LeafOperand(self.anchor, target, inputs), change, self.chosen, target)


class RowChange(Operand):
    """`row D` in chosen rows, zero in all others."""

    def __init__(self, source: LeafOperand, change: torch.Tensor, chosen: torch.Tensor, target: Target) -> None:
        self.target, self.source, self.change, self.chosen = target, source, change, chosen

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The change of rows."""
        result = torch.zeros(last - first, self.target.width, dtype=self.change.dtype, device=self.change.device)
        chosen = self.chosen[first:last]
        if bool(chosen.any()):
            chosen = chosen.to(result.device)
            result[chosen] = self.source.rows(first, last)[chosen] @ self.change
        return result

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """Blocks without a chosen row are passed over."""
        if bool(self.chosen[first:last].any()):
            super().add_to(total, weight, first, last)


def propagate(
    folders: Mapping[str, Path], dtype: torch.dtype | None = None, mode: str = "conversion", body: float = 1.0
) -> Merge:
    """Plan the instruct model with the grown vocabulary; `learn` then fits the maps.

    `folders` are those of `base`, `instruct` and `cpt`. The body is `instruct + body * (cpt - base)`; every row of
    embedding and head is mapped but for special tokens, which are the instruct model's exactly, and padding, which is
    the continued pre-training's. Raises MergeError as `prepare` does.
    """
    _check_mode(mode, MODES)
    merge = prepare(f"instruct + {body!r} * (cpt - base)", folders, dtype, "cpt", "instruct")
    padding = torch.tensor([token is None for token in merge.rows.tokens])
    chosen = ~merge.rows.exact & ~padding
    return _planned(merge, mode, chosen, [(1.0, "instruct", "base")], Leaf("cpt"))


def with_new_rows(merge: Merge, new_rows: str) -> Merge:
    """The merge with the rows that no difference knows carried over by LEP; `learn` then fits the maps.

    For `a + sum_i w_i (b_i - c_i)` a new row of `a` becomes `row + sum_i w_i row D_i`, D_i fitted from c_i to b_i.
    Raises MergeError for a word that is none of `NEW_ROWS` and for a merge that is no sum of differences of models.
    """
    _check_mode(new_rows, NEW_ROWS)
    if new_rows == "cpt":
        return merge
    if merge.combination.vectors or any(isinstance(term, Call) for term in merge.combination.terms):
        raise MergeError(
            f"new rows by {new_rows} need a sum of differences of models like cpt + (instruct - base), not "
            f"'{merge.combination.text}'"
        )
    sources, exact = merge.rows.sources, merge.rows.exact
    padding = torch.tensor([token is None for token in merge.rows.tokens])
    chosen = ~exact & ~padding
    vectors = [(v.weight, v.minuend, v.subtrahend) for v in merge.roles.vectors if v.weight]
    for _, minuend, subtrahend in vectors:
        chosen &= (sources[minuend] < 0) | (sources[subtrahend] < 0)
    return _planned(merge, new_rows.removeprefix("lep-"), chosen, vectors, None)


def _check_mode(mode: str, known: Sequence[str]) -> None:
    if mode not in known:
        raise MergeError(f"there is no '{mode}' for new rows; use {', '.join(known)}")


def _planned(
    merge: Merge, mode: str, chosen: torch.Tensor, vectors: list[tuple[float, str, str]], whole: Formula | None
) -> Merge:
    """The plan with the update in the formulas of the matrices; `whole` replaces these formulas where it is given."""
    parts = dict(merge.parts)
    for name in (output.name for output in _matrices(merge)):
        formula = parts[name].formula if whole is None else whole
        if mode != "swap":
            formula = Linear(formula, (Difference(1.0, Leaf(_update_name(mode)), None),))
        parts[name] = replace(parts[name], formula=formula)
    counts = merge.rows.counts | {"lep": {"mode": mode, "mapped": int(chosen.sum())}}
    rows = replace(merge.rows, counts=counts)
    return replace(merge, parts=parts, rows=rows, carried=Carried(mode, chosen, tuple(vectors)))


def _update_name(mode: str) -> str:
    return f"rows by LEP ({mode})"


def _matrices(merge: Merge) -> list[Output]:
    return [out for out in merge.outputs if merge.anchor.is_vocabulary(out.name) and len(out.shape) == 2]


def learn(merge: Merge, ridge: float = 0.0) -> Merge:
    """Fit the maps of a merge that `propagate` or `with_new_rows` planned, and note how well they fit in its decisions.

    A merge without maps is given back. Raises MergeError, before anything is written, where the rows to learn from do
    not determine a map (see `merge.least_squares.fit`) and no `ridge` is given.
    """
    carried = merge.carried
    if carried is None or carried.mode == "swap":
        return merge
    changes: dict[str, torch.Tensor] = {}
    notes: dict[str, Any] = {}
    for output in _matrices(merge):
        name = output.name
        total = scratch(output.shape[1], output.shape[1], merge.inputs(output).accumulate)
        for weight, target, source in carried.vectors:
            found = _fitted(merge, carried.mode, name, target, source, ridge)
            notes.setdefault(name, {})[f"{target} - {source}"] = _note(found)
            for mine, part in zip(total.split(_ROWS), found.change.split(_ROWS), strict=True):
                mine.add_(part.to(mine.dtype), alpha=weight)
        changes[name] = total
    update = Propagation(merge.roles.anchor, carried.chosen, changes)
    lep = merge.rows.counts["lep"] | {"ridge": ridge, "maps": notes}
    rows = replace(merge.rows, counts=merge.rows.counts | {"lep": lep})
    return replace(merge, rows=rows, special={**merge.special, _update_name(carried.mode): update})


def _note(found: Fit) -> dict[str, Any]:
    return {
        "learned_from": found.rows,
        "rank": found.rank,
        "condition": found.condition,
        "residual": found.residual,
        "unexplained": found.unexplained,
    }


def _fitted(merge: Merge, mode: str, name: str, target: str, source: str, ridge: float) -> Fit:
    parts = merge.parts[name].names
    pieces = _pieces(merge, mode, target, source)
    models = [(merge.checkpoints[model], parts[model], merge.vocabularies[model].ids) for model in (source, target)]
    width = merge.checkpoints[source].tensors[parts[source]].shape[1]

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(pieces), _ROWS):
            x, y = (_means(*model, pieces[first : first + _ROWS]) for model in models)
            yield x, y

    try:
        return fit(blocks(), width, ridge)
    except DeficientError as error:
        hint = "learn from a larger vocabulary, keep the rows as they are (swap), or give a ridge such as 0.001"
        raise MergeError(f"'{name}' from '{source}' to '{target}': {error}; {hint}") from error
    except MergeError as error:
        raise MergeError(f"'{name}' from '{source}' to '{target}': {error}") from error


def _pieces(merge: Merge, mode: str, target: str, source: str) -> list[tuple[str, ...]]:
    """The tokens to learn from, each as the tokens that both models have and whose mean stands for it."""
    left, right = merge.vocabularies[source], merge.vocabularies[target]
    heights = {name: merge.checkpoints[name].height for name in (source, target)}
    special = set(left.added) | set(right.added) | set(merge.vocabularies[merge.roles.anchor].added)
    known = {
        token
        for token, row in left.ids.items()
        if token not in special and row < heights[source] and right.ids.get(token, heights[target]) < heights[target]
    }
    if mode == "overlap":
        return [(token,) for token in merge.rows.tokens if token in known]
    made_of = constituents(merge.anchor.folder, merge.roles.anchor, known)
    return [made_of[token] for token in merge.rows.tokens if token in made_of]


def _means(model: Checkpoint, name: str, ids: Mapping[str, int], pieces: Sequence[tuple[str, ...]]) -> torch.Tensor:
    """The mean of the rows of each group of tokens, float64 `[n, d]`."""
    rows = torch.tensor([ids[token] for group in pieces for token in group])
    width = model.tensors[name].shape[1]
    target = Target(name, len(rows), width, Place(name), by_token=True, block=len(rows) * width)
    inputs = Inputs({model.name: model}, {model.name: rows}, {model.name: name}, torch.float64)
    values = LeafOperand(model.name, target, inputs).rows(0, len(rows))
    if len(rows) == len(pieces):
        return values
    counts = torch.tensor([len(group) for group in pieces])
    owner = torch.repeat_interleave(torch.arange(len(pieces)), counts)
    sums = torch.zeros(len(pieces), width, dtype=torch.float64).index_add_(0, owner, values)
    return sums.div_(counts.unsqueeze(1))
