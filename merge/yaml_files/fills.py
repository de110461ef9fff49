"""Rows of tokens that some models of a merge lack, filled in before the method sees them, by mergekit's rules.

A row that a model lacks is the base's row of the token; where the base lacks it (or there is none), that of the only
model that has it, or the mean of the models that do; where none has it, zero. A file may say for single tokens whose
row it is. So a token that one model alone has comes out as that model's row, whatever the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from merge.formula import Formula
from merge.operands import Inputs, Operand, Target, operand
from merge.vocabulary import Vocabulary
from merge.yaml_files.references import Reference
from merge.yaml_files.tokenizer_key import TokenRule


@dataclass(frozen=True)
class Fill:
    """Rows of one matrix: `own[m]` `[rows]` is model m's row or -1 where it takes the substitute instead.

    The substitute of row r is the mean of the rows `give[m][r] >= 0` of the models m; zero where there is none.
    `tokens` are the rows that belong to tokens; all others hold the mean of these.
    """

    own: Mapping[str, torch.Tensor]
    give: Mapping[str, torch.Tensor]
    tokens: torch.Tensor


def fill_of(
    models: Sequence[Reference],
    base: Reference | None,
    sources: Mapping[str, torch.Tensor],
    table: Sequence[str | None],
    rules: Mapping[str, TokenRule],
    vocabularies: Mapping[str, Vocabulary],
    heights: Mapping[str, int],
) -> Fill:
    """How the models of one tensor fill each other's rows.

    `sources[place]` are a checkpoint's rows by token, `heights[place]` how many it has.

    Raises YamlError for a rule of a token that names no row.
    """
    own = {model.name: sources[model.place].clone() for model in models}
    has = torch.stack([rows >= 0 for rows in own.values()])
    lacking = has.any(0) & ~has.all(0)
    of_base = has[[model == base for model in models].index(True)] if base in models else torch.zeros_like(lacking)
    give = {}
    for index, model in enumerate(models):
        chosen = has[index] & (of_base if model == base else ~of_base)
        give[model.name] = torch.where(lacking & chosen, own[model.name], -1)
    places = {token: row for row, token in enumerate(table) if token in rules}
    for token, rule in rules.items():
        if not rule.force and all(rows[places[token]] >= 0 for rows in own.values()):
            continue
        _apply(rule, places[token], _source_row(rule, token, own, vocabularies, heights), own, give)
    return Fill(own, give, torch.tensor([token is not None for token in table]))


def _source_row(
    rule: TokenRule,
    token: str,
    models: Collection[str],
    vocabularies: Mapping[str, Vocabulary],
    heights: Mapping[str, int],
) -> int:
    """The row of the rule's model that a token is to have; -1 for zero."""
    if not rule.given:
        raise rule.entry.fail(f"'{token}' needs a source: not every model has it, or it is forced")
    if rule.model is None:
        return -1
    if rule.model.name not in models:
        raise rule.entry.fail(f"'{token}' is to come from '{rule.model.name}', which is no model of this merge")
    row = rule.index
    if row is None:
        row = vocabularies[rule.model.place].ids.get(rule.token or token)
        if row is None:
            raise rule.entry.fail(f"'{rule.model.name}' has no token '{rule.token or token}'")
    height = heights[rule.model.place]
    if row >= height:
        raise rule.entry.fail(f"'{token}' is to be row {row} of '{rule.model.name}', which has {height} rows")
    return row


def _apply(
    rule: TokenRule, row: int, source: int, own: Mapping[str, torch.Tensor], give: Mapping[str, torch.Tensor]
) -> None:
    """Set the substitute of one row to the row `source` of the rule's model."""
    for rows in give.values():
        rows[row] = -1
    if rule.model is not None:
        give[rule.model.name][row] = source
    if rule.force:
        for rows in own.values():
            rows[row] = -1


@dataclass(frozen=True)
class Filled:
    """A model in a formula, its rows filled; `fills` are those of the matrices with a row for each token, by name.

    `models` are the formulas of all models by name, `places` their checkpoints.
    """

    name: str
    fills: Mapping[str, Fill]
    models: Mapping[str, Formula]
    places: Mapping[str, str]
    special: Mapping[str, Any]

    def __call__(self, target: Target, inputs: Inputs) -> Operand:
        """The model's rows of one tensor."""
        plain = replace(inputs, special=self.special)
        if target.name not in self.fills:
            return operand(self.models[self.name], target, plain)
        fill = self.fills[target.name]

        def rows_of(name: str, rows: torch.Tensor) -> Operand:
            sources = {**plain.sources, self.places[name]: rows}
            return operand(self.models[name], target, replace(plain, sources=sources))

        own = rows_of(self.name, fill.own[self.name])
        givers = [rows_of(name, rows) for name, rows in fill.give.items() if bool((rows >= 0).any())]
        return FilledOperand(own, givers, self.name, fill, target)


class FilledOperand(Operand):
    """A model's own rows, with substitutes where it has none."""

    def __init__(self, own: Operand, givers: Sequence[Operand], name: str, fill: Fill, target: Target) -> None:
        self.target, self.own, self.givers, self.tokens = target, own, givers, fill.tokens
        self.missing = (fill.own[name] < 0) & fill.tokens
        self.count = torch.stack([rows >= 0 for rows in fill.give.values()]).sum(0).clamp(min=1)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows, none of them missing."""
        padding = ~self.tokens[first:last]
        mean = self.mean if bool(padding.any()) else None  # before the rows are read: both use one buffer
        values = self._of_tokens(first, last)
        if mean is not None:
            values[padding.to(values.device)] = mean.to(values.dtype)
        return values

    def _of_tokens(self, first: int, last: int) -> torch.Tensor:
        values = self.own.rows(first, last)
        missing = self.missing[first:last]
        if bool(missing.any()):
            missing, count = (part.to(values.device) for part in (missing, self.count[first:last].unsqueeze(1)))
            total = torch.zeros_like(values)
            for giver in self.givers:
                total.add_(giver.rows(first, last))
            values[missing] = (total / count)[missing]
        return values

    @cached_property
    def mean(self) -> torch.Tensor:
        """The mean of the rows that belong to tokens, `[width]`: one more pass over them."""
        total = None
        for first, last in self.target.cuts():
            values = self._of_tokens(first, last)
            part = values[self.tokens[first:last].to(values.device)].double().sum(0)
            total = part if total is None else total.add_(part)
        return total / max(1, int(self.tokens.sum()))
