"""Text cut by the grown tokenizer beside the same text cut by the old one, position by position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """Ids in the new cut and in the old one, each behind the same first token.

    `ends[j]` is the old position that new position j corresponds to: that of the last old piece which it is made of.
    At `ends` from the first new piece on, the two models should be in the same state.
    """

    new: list[int]
    old: list[int]
    ends: list[int]
    start: int
    """The first position of `new` that holds a new piece."""


def snippets(
    documents: Iterable[Sequence[int]], parts: Mapping[int, Sequence[int]], first: int, length: int, context: int
) -> Iterator[Snippet]:
    """Cut documents of new ids into runs of at most `length` ids that hold a new piece.

    `parts[id]` are the old ids of a new piece. A run takes at most `context` positions in the old cut, `first`
    included. Walking both cuts side by side needs no search: a new id spans exactly its parts.
    """
    for document in documents:
        run: list[int] = []
        size = 1
        for index in document:
            width = len(parts.get(index, (index,)))
            if run and (len(run) == length or size + width > context):
                yield from _snippet(run, parts, first)
                run, size = [], 1
            if size + width <= context:
                run.append(index)
                size += width
        yield from _snippet(run, parts, first)


def _snippet(run: Sequence[int], parts: Mapping[int, Sequence[int]], first: int) -> Iterator[Snippet]:
    places = [place for place, index in enumerate(run, start=1) if index in parts]
    if not places:
        return
    old, ends = [first], [0]
    for index in run:
        old += parts.get(index, (index,))
        ends.append(len(old) - 1)
    yield Snippet([first, *run], old, ends, places[0])
