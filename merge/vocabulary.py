"""Rows of embeddings matched by token, never by index.

Every model's tokens are read from its `tokenizer.json`; each row of the output is planned by one of these rules:

    shared       every model of the formula knows the token: the formula, each model's row looked up by the token
    partly       some differences lack the token on one side: the formula without these
    anchor_only  no difference knows it (a new piece): the anchor's row exactly, whatever the weights
    special      a special, added or chat token: the row of the model that the chat tokens come from, exactly
    padding      a row that belongs to no token: the anchor's row exactly
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from merge.checkpoint import Checkpoint, read_json
from merge.errors import MergeError
from merge.roles import Roles, Vector
from merge.tokenizer_files import tokens_in

_LEAST_OVERLAP = 0.2
"""Share of the smaller vocabulary that relatives have in common at least; one may have been replaced in part."""


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokens: id by token, and the entries of the special and added ones by token."""

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @cached_property
    def pieces(self) -> Set[str]:
        """The ordinary tokens."""
        return self.ids.keys() - self.added.keys()


def read_vocabulary(folder: Path, name: str) -> Vocabulary:
    """The tokens of a folder's `tokenizer.json`, with those that only `tokenizer_config.json` adds.

    Raises MergeError where there is no `tokenizer.json`: without it rows could only be matched by index.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise MergeError(f"'{name}' has no tokenizer.json, so its rows cannot be matched by token; save it with one")
    ids, entries = tokens_in(path)
    added = {entry["content"]: entry for entry in entries}
    config = folder / "tokenizer_config.json"
    extra = read_json(config).get("added_tokens_decoder", {}) if config.exists() else {}
    for index, entry in extra.items():
        if entry["content"] not in added:
            added[entry["content"]] = {"id": int(index), **entry}
    ids.update((token, int(entry["id"])) for token, entry in added.items())
    return Vocabulary(ids, added)


@dataclass(frozen=True)
class RowPlan:
    """Where each row of the output comes from.

    `tokens[r]` is the token of output row r or None, `appended` are the entries of chat tokens that the anchor lacks,
    `sources[m]` `[rows]` the row of model m that holds the same token (-1: none), `exact` `[rows]` whether the row is
    `special_from`'s (special) and `rules[r]` the name of the row's rule.
    """

    tokens: Sequence[str | None]
    appended: Sequence[Mapping[str, Any]]
    sources: Mapping[str, torch.Tensor]
    exact: torch.Tensor
    counts: Mapping[str, Any]

    @property
    def height(self) -> int:
        """Rows of the output."""
        return len(self.tokens)


def plan_rows(roles: Roles, checkpoints: Mapping[str, Checkpoint], vocabularies: Mapping[str, Vocabulary]) -> RowPlan:
    """Plan every row of the output's embeddings.

    The output has the anchor's tokens under the anchor's ids, and behind them the special and added tokens that only
    `special_from` has. Raises MergeError for models whose vocabularies have little in common.
    """
    anchor = vocabularies[roles.anchor]
    for name in (name for name in roles.models if name != roles.anchor):
        _check_overlap(roles.anchor, anchor, name, vocabularies[name])
    appended = _appended(roles, vocabularies)
    first = 1 + max(anchor.ids.values())
    height = max(checkpoints[roles.anchor].height, first + len(appended))
    tokens: list[str | None] = [None] * height
    for token, index in anchor.ids.items():
        tokens[index] = token
    for offset, entry in enumerate(appended):
        tokens[first + offset] = entry["content"]
    sources = {name: _source(tokens, vocabularies[name], model.height) for name, model in checkpoints.items()}
    padding = torch.tensor([token is None for token in tokens])
    own = torch.arange(height)
    sources[roles.anchor] = torch.where(padding & (own < checkpoints[roles.anchor].height), own, sources[roles.anchor])
    exact = _exact(tokens, roles, vocabularies, sources)
    return RowPlan(tokens, appended, sources, exact, _count(roles, vocabularies, sources, exact, padding, appended))


def _check_overlap(anchor_name: str, anchor: Vocabulary, name: str, other: Vocabulary) -> None:
    shared, smaller = len(anchor.pieces & other.pieces), min(len(anchor.pieces), len(other.pieces))
    if shared < _LEAST_OVERLAP * smaller:
        raise MergeError(
            f"'{anchor_name}' and '{name}' share only {shared} of {smaller} tokens, so they are no relatives whose "
            "weights can be added; use models with one ancestor"
        )


def _appended(roles: Roles, vocabularies: Mapping[str, Vocabulary]) -> list[Mapping[str, Any]]:
    if roles.special_from is None:
        return []
    chat, known = vocabularies[roles.special_from], vocabularies[roles.anchor].ids
    return [
        entry for token, entry in sorted(chat.added.items(), key=lambda item: chat.ids[item[0]]) if token not in known
    ]


def _source(tokens: Sequence[str | None], vocabulary: Vocabulary, height: int) -> torch.Tensor:
    found = map(vocabulary.ids.get, tokens, repeat(-1))  # None, the token of a padding row, is no model's
    rows = torch.from_numpy(np.fromiter(found, np.int64, len(tokens)))
    return rows.masked_fill_(rows >= height, -1)


def _exact(
    tokens: Sequence[str | None],
    roles: Roles,
    vocabularies: Mapping[str, Vocabulary],
    sources: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    if roles.special_from is None:
        return torch.zeros(len(tokens), dtype=torch.bool)
    added = vocabularies[roles.special_from].added
    special = torch.from_numpy(np.fromiter(map(added.__contains__, tokens), np.bool_, len(tokens)))
    return special & (sources[roles.special_from] >= 0)


def _known(vector: Vector, sources: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return (sources[vector.minuend] >= 0) & (sources[vector.subtrahend] >= 0)


def _count(
    roles: Roles,
    vocabularies: Mapping[str, Vocabulary],
    sources: Mapping[str, torch.Tensor],
    exact: torch.Tensor,
    padding: torch.Tensor,
    appended: Sequence[Any],
) -> dict[str, Any]:
    """Every decision as a number; `moved` are tokens that models hold under different ids."""
    known = torch.stack([_known(vector, sources) for vector in roles.vectors] or [torch.ones_like(exact)])
    free = ~exact & ~padding
    anchor = sources[roles.anchor]
    moved = {
        name: int(((sources[name] >= 0) & (anchor >= 0) & (sources[name] != anchor)).sum()) for name in roles.models
    }
    known_by_anchor, late = vocabularies[roles.anchor].ids.keys(), {entry["content"] for entry in appended}
    dropped = {
        name: len(vocabularies[name].ids.keys() - known_by_anchor - late)
        for name in roles.models
        if name != roles.anchor
    }
    return {
        "shared": int((free & known.all(0)).sum()),
        "partly": int((free & known.any(0) & ~known.all(0)).sum()),
        "anchor_only": int((free & ~known.any(0)).sum()),
        "special": int(exact.sum()),
        "padding": int(padding.sum()),
        "appended": len(appended),
        "moved": {name: count for name, count in moved.items() if count},
        "dropped": {name: count for name, count in dropped.items() if count},
    }
