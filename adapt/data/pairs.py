"""Pairs of answers to one prompt: as texts, as rows of a stream, and as a batch.

A pair is stored as two documents, the prompt with the chosen answer and the prompt with the rejected one, each encoded
like a prompt with its completion: the same chat template, and only the answer is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.data.documents import Document
from adapt.data.encoding import Encoded
from adapt.data.mixture import Schedule, mixed
from adapt.data.store import Store, open_store
from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch

    from adapt.data.sources import Source
    from adapt.display import Display

Pair = dict[str, Any]
SIDES = ("chosen", "rejected")


def answers(document: Document) -> tuple[Document, Document]:
    """A pair as two prompts with a completion, the chosen one first."""
    shared = {name: document[name] for name in ("prompt", "tools") if name in document}
    return tuple({**shared, "completion": document[side]} for side in SIDES)


@dataclass(frozen=True)
class PairSource:
    """A source's usable pairs. `starts` and `lengths`, `[pairs, 2]`, are the kept tokens of chosen and rejected.

    `truncated` tokens at the ends of answers are cut off. `too_long` pairs have an answer of which nothing is left, and
    `equal` pairs have twice the same answer; neither is used.
    """

    name: str
    share: float
    store: Store
    starts: np.ndarray
    lengths: np.ndarray
    truncated: int
    too_long: int
    equal: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each pair, both answers with their prompts, `[pairs]`."""
        return self.lengths.sum(axis=1)

    def row(self, index: int) -> Pair:
        """For each side `<side>_ids`, and `<side>_mask` with 1 for the tokens of the answer."""
        found: Pair = {"source": self.name}
        for side, start, length in zip(SIDES, self.starts[index], self.lengths[index], strict=True):
            part = slice(int(start), int(start + length))
            found[f"{side}_ids"] = self.store.tokens[part].astype(np.int64).tolist()
            found[f"{side}_mask"] = answer_marks(self.store, part).tolist()
        return found

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens of all answers, once each."""
        spans = zip(self.starts.flat, self.lengths.flat, strict=True)
        return sum(int(answer_marks(self.store, slice(start, start + length)).sum()) for start, length in spans)


def answer_marks(store: Store, part: slice) -> np.ndarray:
    """1 where a token belongs to the answer and is predicted by one before it, `[tokens]`."""
    marks = np.ones(part.stop - part.start, dtype=np.int64) if store.trained is None else store.trained[part].copy()
    marks[:1] = 0
    return marks


def pair_source(name: str, share: float, store: Store, limit: int) -> PairSource:
    """The pairs of a store, each side cut after `limit` tokens. Raises AdaptError where none can be used."""
    starts = store.offsets[:-1].reshape(-1, 2)
    whole = store.lengths.reshape(-1, 2)
    lengths = np.minimum(whole, limit)
    kinds = [_kind(store, *pair) for pair in zip(starts, lengths, strict=True)]
    kept = np.array([kind == "good" for kind in kinds], dtype=bool)
    if not kept.any():
        raise AdaptError(
            f"source '{name}' would train nothing: of {len(kept):,} pairs {kinds.count('long'):,} have no answer "
            f"within {limit} tokens and {kinds.count('equal'):,} have two equal answers; raise sequence_length or give "
            "other pairs"
        )
    truncated = int((whole - lengths)[kept].sum())
    return PairSource(
        name, share, store, starts[kept], lengths[kept], truncated, kinds.count("long"), kinds.count("equal")
    )


def _kind(store: Store, starts: np.ndarray, lengths: np.ndarray) -> str:
    """`good`, `long` where nothing of an answer is left, `equal` where what is left of both is the same."""
    parts = [slice(int(start), int(start + length)) for start, length in zip(starts, lengths, strict=True)]
    if not all(answer_marks(store, part).any() for part in parts):
        return "long"
    return "equal" if np.array_equal(store.tokens[parts[0]], store.tokens[parts[1]]) else "good"


@dataclass(frozen=True)
class PairStream(Sequence[Pair]):
    """What a model learns to prefer, pair by pair. `numbers[i]` is row i's pair among those of all sources."""

    sources: tuple[PairSource, ...]
    schedule: Schedule
    sequence_length: int
    reports: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
        """Row `index`, from 0; beyond the last one an IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a stream of {len(self)}")
        source, number = int(self.schedule.source[index]), int(self.schedule.sequence[index])
        return {**self.sources[source].row(number), "number": int(self.numbers[index])}

    @cached_property
    def numbers(self) -> np.ndarray:
        """The pair of each row, counted over all sources, `[rows]`."""
        first = np.cumsum([0, *map(len, self.sources)])
        return first[self.schedule.source] + self.schedule.sequence

    def row_sizes(self) -> np.ndarray:
        """Tokens of the longer answer of each row, with its prompt, `[rows]`."""
        longest = np.concatenate([source.lengths.max(axis=1) for source in self.sources])
        return longest[self.numbers]

    def tokens_of(self, name: str) -> int:
        """Tokens of the rows of one source."""
        return self.schedule.tokens_of([source.name for source in self.sources].index(name))


def build_pairs(
    sources: Mapping[str, Source],
    mixture: Mapping[str, float],
    tokenizer: Any,
    *,
    sequence_length: int,
    seed: int,
    cache: Path,
    tokens: int | None = None,
    epochs: float | None = None,
    multiple: int = 1,
    display: Display | None = None,
) -> PairStream:
    """Tokenise (or find in `cache`) and mix sources of pairs, as `adapt.data.stream.build_stream` does with texts.

    Shares and `tokens` count both answers with their prompts. Raises AdaptError where a source cannot be read or has no
    usable pair.
    """
    shares = {name: share for name, share in mixture.items() if share > 0}
    found = []
    for name, share in shares.items():
        store = open_store(sources[name], tokenizer, "dpo", cache, name, display)
        found.append(pair_source(name, share, store, sequence_length))
    sizes = {source.name: source.sizes for source in found}
    schedule = mixed(sizes, shares, seed=seed, tokens=tokens, epochs=epochs, multiple=multiple)
    return PairStream(tuple(found), schedule, sequence_length)


def encoded_pair(encoded: Sequence[Encoded], limit: int) -> Pair | None:
    """Two encoded answers as a row of a stream; None where nothing of an answer is left within `limit` tokens."""
    row: Pair = {}
    for side, item in zip(SIDES, encoded, strict=True):
        marks = list(item.trained or [1] * len(item.ids))[:limit]
        row |= {f"{side}_ids": item.ids[:limit], f"{side}_mask": [0, *marks[1:]]}
    return row if all(any(row[f"{side}_mask"]) for side in SIDES) else None


def collate_pairs(items: Sequence[Pair], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `completion_mask`, `[2 pairs, longest]` int64: chosen, then rejected ones."""
    import torch

    ids = [item[f"{side}_ids"] for side in SIDES for item in items]
    marks = [item[f"{side}_mask"] for side in SIDES for item in items]
    longest = max(map(len, ids))

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)

    ones = [[1] * len(row) for row in ids]
    return {
        "input_ids": padded(ids, pad_id),
        "attention_mask": padded(ones, 0),
        "completion_mask": padded(marks, 0),
    }
