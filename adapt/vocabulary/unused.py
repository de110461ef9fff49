"""Pieces that never occur in held-out text: which they are, and a tokenizer without them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from adapt.vocabulary.learning import Piece


def needed(pieces: Sequence[Piece], used: Collection[int]) -> list[Piece]:
    """The used pieces and all that they are built from, in the same order, numbered without gaps.

    The text in which the used ones were counted stays cut as it is: a piece that a merge consumed there is a step of
    the piece that it became.
    """
    keep = set(used)
    for piece in reversed(pieces):
        if piece.id in keep:
            keep.update(piece.made_of)
    kept = [piece for piece in pieces if piece.id in keep]
    first = pieces[0].id if pieces else 0
    moved = {piece.id: first + rank for rank, piece in enumerate(kept)}
    return [_renumbered(piece, moved) for piece in kept]


def _renumbered(piece: Piece, moved: dict[int, int]) -> Piece:
    left, right = moved.get(piece.left, piece.left), moved.get(piece.right, piece.right)
    return replace(piece, id=moved[piece.id], left=left, right=right)
