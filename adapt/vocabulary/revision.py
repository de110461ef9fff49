"""A tokenizer with other pieces than its base, in terms that rows of a model can follow.

Every way to change a vocabulary ends in the same: tokens that stay, new ones that are made of old ones, and old ones
that go. While rows are initialised, old tokens keep their ids and new ones stand behind them; what goes is taken out
and the ids are closed up only afterwards (`adapt.vocabulary.renumbering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.measures import fit, token_counts, usage
from adapt.vocabulary.splice import core_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from adapt.vocabulary.expansion import Grown


@dataclass(frozen=True)
class Revision:
    """What a tokenizer becomes, under the base's ids with the new ones behind them.

    `document` is its `tokenizer.json`; `ids[i]`, `tokens[i]`, `parts[i]` and `merges[i]` are the i-th new token's id,
    how it is written, the base's ids that it is made of, and the two ids that merge into it (None for a token that no
    merge builds: a special one, or a character that had only bytes). `gone` are the base's ids whose tokens are given
    up; the document may still list them.
    """

    base: Tokenizer
    document: dict[str, Any]
    ids: Sequence[int]
    tokens: Sequence[str]
    parts: Sequence[tuple[int, ...]]
    merges: Sequence[tuple[int, int] | None]
    gone: frozenset[int] = frozenset()

    def without(self, gone: frozenset[int]) -> Revision:
        """The same with further old tokens given up."""
        return replace(self, gone=self.gone | gone)


def of_grown(grown: Grown) -> Revision:
    """An expansion: everything stays, the new pieces are merges."""
    merges = [None if piece.left < 0 else (piece.left, piece.right) for piece in grown.pieces]
    strings = [piece.string for piece in grown.pieces]
    return Revision(grown.base, grown.document, grown.ids, strings, grown.parts, merges)


def tokens_saved(
    base: Tokenizer, final: dict[str, Any], new_ids: Sequence[int], held_out: Sequence[str]
) -> dict[str, Any]:
    """Fertility and bytes per token on held-out text under the base and the final `tokenizer.json`.

    `saving` is the share of tokens that the text takes less, `used` the share of the new ids that occur at all.
    """
    before, after = token_counts(base, held_out), token_counts(core_of(final), held_out)
    return {
        "before": fit(before.total(), held_out),
        "after": fit(after.total(), held_out),
        "saving": 1 - after.total() / max(1, before.total()),
        "used": usage(after, new_ids),
    }
