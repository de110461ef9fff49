"""The mixed stream: a sequence of packed rows, each a pure function of its index, the settings and the seed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.data.documents import Objective
from adapt.data.mixture import Schedule, mixed, permutation
from adapt.data.packing import Packing, Strategy, pack
from adapt.data.store import Store, open_store
from adapt.errors import AdaptError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from adapt.data.sources import Source
    from adapt.display import Display

Row = dict[str, Any]
NO_LOSS = -100
_BLOCK = 1 << 16


@dataclass(frozen=True)
class PackedSource:
    """A source's tokens and how they are packed. `truncated` tokens, at the ends of conversations, are left out."""

    name: str
    share: float
    store: Store
    packing: Packing
    truncated: int

    def row(self, sequence: int) -> Row:
        """A sequence: `input_ids`, `labels` and `position_ids`, which begin anew with every piece.

        The first token of a piece has no label: the token before it belongs to another document.
        """
        ids: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        positions: list[np.ndarray] = []
        for start, length in self.packing.pieces(sequence):
            part = self.store.tokens[start : start + length].astype(np.int64)
            marked = part.copy()
            if self.store.trained is not None:
                marked[self.store.trained[start : start + length] == 0] = NO_LOSS
            marked[0] = NO_LOSS
            ids.append(part)
            labels.append(marked)
            positions.append(np.arange(length))
        names = ("input_ids", "labels", "position_ids")
        columns = (np.concatenate(parts).tolist() for parts in (ids, labels, positions))
        return {**dict(zip(names, columns, strict=True)), "source": self.name}

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens with loss in one epoch, those without a predecessor in their piece not counted."""
        trained = self.store.trained
        if trained is None:
            return int(self.packing.lengths.sum() - len(self.packing.lengths))
        starts, lengths = self.packing.starts, self.packing.lengths
        return int(_sums(trained, starts, lengths).sum()) - int(trained[starts].sum())


@dataclass(frozen=True)
class Stream(Sequence[Row]):
    """What a model is trained on, row by row. `stream[i]` reads some hundred bytes and depends on nothing before it."""

    sources: tuple[PackedSource, ...]
    schedule: Schedule
    sequence_length: int
    reports: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        """Row `index`, from 0; an index from the end or beyond it is an IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a stream of {len(self)}")
        return self.sources[self.schedule.source[index]].row(int(self.schedule.sequence[index]))

    def row_sizes(self) -> np.ndarray:
        """Tokens of each row, `[rows]`."""
        sizes = np.zeros(len(self), dtype=np.int64)
        for number, source in enumerate(self.sources):
            own = self.schedule.source == number
            sizes[own] = np.asarray(source.packing.sizes)[self.schedule.sequence[own]]
        return sizes

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.schedule.tokens[-1])

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text in a token, the sources weighted with their shares."""
        counts = [(source.share, source.store.counts) for source in self.sources]
        return sum(share * count.bytes / count.tokens for share, count in counts)

    def tokens_of(self, name: str) -> int:
        """Tokens of the rows of one source."""
        return self.schedule.tokens_of([source.name for source in self.sources].index(name))


def build_stream(
    sources: Mapping[str, Source],
    mixture: Mapping[str, float],
    tokenizer: Any,
    *,
    objective: Objective,
    sequence_length: int,
    packing: Strategy,
    seed: int,
    cache: Path,
    tokens: int | None = None,
    epochs: float | None = None,
    multiple: int = 1,
    display: Display | None = None,
) -> Stream:
    """Tokenise (or find in `cache`), pack and mix the sources; `stream.reports` says what came of each.

    Rows are added until `tokens` are reached, or until the source that its share exhausts first has been read `epochs`
    times; then on to a whole multiple of `multiple` rows (the rows of an update). Sources that are too small are read
    again, in another order. Raises AdaptError where a source cannot be read, gives no token, or would train nothing.
    """
    from adapt.data.preflight import preflight

    shares = {name: share for name, share in mixture.items() if share > 0}
    packed = []
    for name, share in shares.items():
        store = open_store(sources[name], tokenizer, objective, cache, name, display)
        packed.append(packed_source(name, share, store, objective, sequence_length, packing, seed))
    sizes = {source.name: source.packing.sizes for source in packed}
    schedule = mixed(sizes, shares, seed=seed, tokens=tokens, epochs=epochs, multiple=multiple)
    stream = Stream(tuple(packed), schedule, sequence_length)
    stream.reports.extend(report.as_dict() for report in preflight(stream, tokenizer))
    return stream


def packed_source(
    name: str, share: float, store: Store, objective: Objective, limit: int, strategy: Strategy, seed: int
) -> PackedSource:
    """Pack a source's documents. A conversation is never spread over rows: longer than `limit`, its end is cut.

    A conversation in which the assistant's words are all beyond `limit` is left out as a whole. What is cut is counted.
    """
    starts, lengths = store.offsets[:-1], store.lengths
    kept = lengths
    if objective == "sft":
        kept = np.minimum(lengths, limit)
        kept = np.where(_learnable(store, starts, kept), kept, 0)
        strategy = "best_fit"
    order = permutation(len(lengths), seed, zlib.crc32(name.encode()))
    packing = pack(starts, kept, limit, strategy, order)
    if not len(packing):
        raise AdaptError(
            f"source '{name}' would train nothing: no answer begins within {limit} tokens; raise sequence_length"
        )
    return PackedSource(name, share, store, packing, int((lengths - kept).sum()))


def _learnable(store: Store, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Which documents have a token with loss, besides their first token, `[documents]`."""
    if store.trained is None:
        return lengths > 1
    return _sums(store.trained, starts, lengths) > store.trained[starts]


def _sums(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of `values[start:start + length]` for each pair, `[pairs]`; values are read once, a part at a time."""
    sums = [
        [int(values[start : start + length].sum()) for start, length in zip(*block, strict=True)]
        for block in _blocks(starts, lengths)
    ]
    return np.array([value for block in sums for value in block], dtype=np.int64)


def _blocks(starts: np.ndarray, lengths: np.ndarray) -> list[tuple[list[int], list[int]]]:
    cuts = range(0, len(starts), _BLOCK)
    return [(starts[cut : cut + _BLOCK].tolist(), lengths[cut : cut + _BLOCK].tolist()) for cut in cuts]


def collate(items: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows as a batch: `input_ids`, `labels` and `position_ids`, each `[rows, longest row]`, int64.

    There is no attention mask: transformers then keeps documents apart by their positions, which begin anew. The
    padding at the end is a document of its own, without loss.
    """
    import torch

    longest = max(len(item["input_ids"]) for item in items)

    def padded(name: str, item: Row) -> list[int]:
        gap = longest - len(item["input_ids"])
        return item[name] + (list(range(gap)) if name == "position_ids" else [_PADDING.get(name, pad_id)] * gap)

    names = ("input_ids", "labels", "position_ids")
    return {name: torch.tensor([padded(name, item) for item in items], dtype=torch.long) for name in names}


_PADDING = {"labels": NO_LOSS}


def as_dataset(stream: Sequence[Row]) -> Dataset:
    """The stream as a `datasets.Dataset` (TRL's trainers take nothing else): indices, read when they are asked for."""
    from datasets import Dataset

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        rows = [stream[index] for index in batch["index"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    return Dataset.from_dict({"index": list(range(len(stream)))}).with_transform(read)
