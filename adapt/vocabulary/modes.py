"""The ways to change a vocabulary: each makes a revision of a `tokenizer.json`, and says what is to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapt.vocabulary.expansion import Grown, Growth, expand, tokenizer_report
from adapt.vocabulary.replacement import mixed, replace_tokenizer, unreachable
from adapt.vocabulary.revision import Revision, of_grown
from adapt.vocabulary.sizing import MOST, chosen
from adapt.vocabulary.texts import Texts
from adapt.vocabulary.token_list import add_pieces, add_special

Revised = tuple[Revision, dict[str, Any]]


def expanded(document: dict[str, Any], texts: Texts, growth: Growth, name: str) -> Revised:
    """`mode: expand`: pieces learned on top of the base's own segmentation."""
    grown = _grown(document, texts, growth, name)
    return of_grown(grown), tokenizer_report(grown, texts.held_out)


def expanded_to_the_knee(document: dict[str, Any], texts: Texts, growth: Growth, worth: float, name: str) -> Revised:
    """`add: auto`: learn more pieces than are ever chosen, choose the size, and keep as many."""
    choice = chosen(
        _grown(document, texts, replace(growth, add=2 * MOST, drop_unused=False), name), texts.held_out, worth
    )
    revision, report = expanded(document, texts, replace(growth, add=choice["size"]), name)
    return revision, report | {"auto": choice}


def _grown(document: dict[str, Any], texts: Texts, growth: Growth, name: str) -> Grown:
    return expand(document, growth, texts.corpus(), texts.held_out, texts.protected(), name)


def replaced(
    document: dict[str, Any], texts: Texts, size: int, general_share: float, min_frequency: int, name: str
) -> Revised:
    """`mode: replace`: a vocabulary trained afresh, with the rows of what both have."""
    mixture = mixed(texts.corpus(), texts.general(), general_share)
    revision = replace_tokenizer(document, mixture, size, min_frequency, name)
    base = set(revision.base.get_vocab(with_added_tokens=True).values())
    return revision, {"kept": len(base - revision.gone), "unreachable": unreachable(revision)}


def listed(document: dict[str, Any], texts: Texts, tokens: Sequence[str], special: bool, name: str) -> Revised:
    """`mode: tokens`: given strings as pieces, or as special tokens."""
    if special:
        found = add_special(document, tokens, name)
    else:
        found = add_pieces(document, tokens, texts.corpus(), texts.held_out, name)
    return found.revision, {"steps_only": found.steps, "skipped": dict(found.skipped), "unreachable": 0}
