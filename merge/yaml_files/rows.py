"""Which tokens the output has, and which row of each model holds them.

Without a `tokenizer` key rows are taken by index, which is only right where no index means different tokens: this is
checked. With the key, rows are looked up by token; what a model does not have is filled as mergekit does it: from the
base, from the only model that has it, or by the mean of those that do. Rows behind the last token hold the mean of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from merge.checkpoint import Checkpoint
from merge.vocabulary import RowPlan, Vocabulary
from merge.yaml_files.document import Entry
from merge.yaml_files.tokenizer_key import TokenizerRule


@dataclass(frozen=True)
class Tokens:
    """The output's tokens: ids of the tokenizer that it has, and entries that are added behind them."""

    owner: str
    ids: Mapping[str, int]
    appended: tuple[Mapping[str, Any], ...] = ()

    def table(self, multiple: int | None) -> list[str | None]:
        """The token of each row; the number of rows is a multiple of `multiple`."""
        count = 1 + max(self.ids.values()) + len(self.appended)
        rows: list[str | None] = [None] * (count if multiple is None else -(-count // multiple) * multiple)
        for token, index in self.ids.items():
            rows[index] = token
        for offset, entry in enumerate(self.appended, 1 + max(self.ids.values())):
            rows[offset] = entry["content"]
        return rows


def by_index(
    anchor: str, checkpoints: Mapping[str, Checkpoint], vocabularies: Mapping[str, Vocabulary], entry: Entry
) -> RowPlan:
    """The anchor's rows, row by row. Raises YamlError where one index means different tokens in two models."""
    ours, height = vocabularies[anchor], checkpoints[anchor].height
    tokens: list[str | None] = [None] * height
    for token, index in ours.ids.items():
        if index < height:
            tokens[index] = token
    for name, vocabulary in vocabularies.items():
        _check_equal(anchor, ours, name, vocabulary, checkpoints, entry)
    own = torch.arange(height)
    sources = {name: torch.where(own < model.height, own, -1) for name, model in checkpoints.items()}
    padding = sum(token is None for token in tokens)
    dropped = {name: len(set(vocabulary.ids) - set(ours.ids)) for name, vocabulary in vocabularies.items()}
    counts = _counts(height - padding, 0, padding, 0) | {"dropped": {name: n for name, n in dropped.items() if n}}
    return RowPlan(tokens, (), sources, torch.zeros(height, dtype=torch.bool), counts)


def _check_equal(
    anchor: str, ours: Vocabulary, name: str, other: Vocabulary, models: Mapping[str, Checkpoint], entry: Entry
) -> None:
    advice = "add 'tokenizer_source: base' (or a model) to the file, which matches rows by token"
    moved = next((token for token, index in other.ids.items() if ours.ids.get(token, index) != index), None)
    if moved is not None:
        raise entry.fail(
            f"the token {moved!r} is {ours.ids[moved]} in '{anchor}' and {other.ids[moved]} in '{name}'; {advice}"
        )
    by_id = {index: token for token, index in ours.ids.items()}
    clash = next((token for token, index in other.ids.items() if by_id.get(index, token) != token), None)
    if clash is not None:
        index = other.ids[clash]
        raise entry.fail(f"row {index} is {by_id[index]!r} in '{anchor}' and {clash!r} in '{name}'; {advice}")
    heights = models[anchor].height, models[name].height
    extra = len(set(ours.ids) ^ set(other.ids))
    if heights[0] != heights[1] and extra:
        raise entry.fail(
            f"'{anchor}' has {heights[0]} rows and '{name}' {heights[1]}, and {extra} tokens are in one only; {advice}"
        )


def _counts(shared: int, partly: int, padding: int, appended: int) -> dict[str, Any]:
    return {
        "shared": shared,
        "partly": partly,
        "anchor_only": 0,
        "special": 0,
        "padding": padding,
        "appended": appended,
        "moved": {},
        "dropped": {},
    }


def output_tokens(rule: TokenizerRule, owner: str | None, vocabularies: Mapping[str, Vocabulary]) -> Tokens:
    """The tokens that a rule asks for: those of the model `owner`, or the union of all (None).

    A union is the vocabulary of a model that has all ordinary tokens, with the special and added tokens of the others
    behind it. Raises YamlError where no model has them all.
    """
    appended: list[Mapping[str, Any]] = []
    if owner is None:
        owner = _widest(rule, vocabularies)
        known = set(vocabularies[owner].ids)
        for vocabulary in vocabularies.values():
            for token in sorted(set(vocabulary.added) - known, key=lambda token: vocabulary.ids[token]):
                appended.append(vocabulary.added[token])
                known.add(token)
    ids = vocabularies[owner].ids
    known = set(ids) | {entry["content"] for entry in appended}
    appended += [_entry(token, vocabularies) for token in rule.tokens if token not in known]
    return Tokens(owner, ids, tuple(appended))


def _widest(rule: TokenizerRule, vocabularies: Mapping[str, Vocabulary]) -> str:
    """The first model that has the ordinary tokens of all."""
    every = set().union(*(vocabulary.pieces for vocabulary in vocabularies.values()))
    for name, vocabulary in vocabularies.items():
        if every <= set(vocabulary.ids):
            return name
    lacking = {name: every - set(vocabulary.ids) for name, vocabulary in vocabularies.items()}
    name = min(lacking, key=lambda found: len(lacking[found]))
    owner = next(other for other, found in vocabularies.items() if lacking[name] & found.pieces)
    token = min(lacking[name] & vocabularies[owner].pieces)
    raise rule.entry.fail(
        f"no model has the tokens of all: '{name}' lacks {len(lacking[name])}, such as {token!r} of '{owner}'; a token "
        "that is added without its merges never occurs in a text. Give the model whose tokens are to stay as the source"
    )


def _entry(token: str, vocabularies: Mapping[str, Vocabulary]) -> Mapping[str, Any]:
    """The tokenizer's entry of a token that is added: that of a model which has it added, else a plain one."""
    for vocabulary in vocabularies.values():
        if token in vocabulary.added:
            return vocabulary.added[token]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"content": token, **flags}


def by_token(
    tokens: Tokens, multiple: int | None, checkpoints: Mapping[str, Checkpoint], vocabularies: Mapping[str, Vocabulary]
) -> RowPlan:
    """Every row looked up by its token; -1 where a model lacks it."""
    table = tokens.table(multiple)
    sources = {name: _found(table, vocabularies[name], model.height) for name, model in checkpoints.items()}
    has = torch.stack([rows >= 0 for rows in sources.values()])
    free = torch.tensor([token is not None for token in table])
    shared = int((has.all(0) & free).sum())
    counts = _counts(shared, int(free.sum()) - shared, int((~free).sum()), len(tokens.appended))
    kept = set(table)
    dropped = {name: len(set(vocabularies[name].ids) - kept) for name in checkpoints}
    counts |= {
        "nowhere": int((~has.any(0) & free).sum()),
        "dropped": {name: count for name, count in dropped.items() if count},
    }
    return RowPlan(table, tokens.appended, sources, torch.zeros(len(table), dtype=torch.bool), counts)


def _found(table: Sequence[str | None], vocabulary: Vocabulary, height: int) -> torch.Tensor:
    rows = [-1 if token is None else vocabulary.ids.get(token, -1) for token in table]
    return torch.tensor([row if row < height else -1 for row in rows], dtype=torch.long)
