"""How well a tokenizer fits a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from adapt.vocabulary.learning import Piece


def token_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[int]:
    """How often each token occurs in the texts, without special tokens around them."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer.encode(text, add_special_tokens=False).ids)
    return counts


def fit(tokens: int, texts: Sequence[str]) -> dict[str, float]:
    """Fertility (tokens per word between white space) and bytes of UTF-8 per token."""
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode("utf-8")) for text in texts)
    return {"fertility": tokens / max(1, words), "bytes_per_token": size / max(1, tokens)}


def usage(counts: Counter[int], ids: Collection[int]) -> float:
    """The share of the ids that occur at all."""
    return sum(counts[index] > 0 for index in ids) / max(1, len(ids))


def curve(pieces: Sequence[Piece], tokens: int, texts: Sequence[str], points: int = 40) -> list[list[float]]:
    """`[number of pieces, bytes per token]` on held-out text, from none to all.

    The first k pieces are the same whatever the number asked for, so one run shows what every smaller number would
    have given. `tokens` is the number that the base needs.
    """
    size = sum(len(text.encode("utf-8")) for text in texts)
    left, totals = tokens, [tokens]
    for piece in pieces:
        left -= piece.saved_held_out
        totals.append(left)
    shown = sorted({round(index * len(pieces) / points) for index in range(points + 1)})
    return [[count, size / max(1, totals[count])] for count in shown]


def row_norms(old: torch.Tensor, new: torch.Tensor) -> dict[str, float]:
    """Smallest, mean and largest norm of the rows of old pieces `[n, d]` and of new ones `[k, d]`."""
    numbers = {"old": old.float().norm(dim=1), "new": new.float().norm(dim=1)}
    return {
        f"{name}_norm_{what}": float(getattr(norms, what)())
        for name, norms in numbers.items()
        if len(norms)
        for what in ("min", "mean", "max")
    }
