"""Tokens of a source on disk: made once, written whole or not at all, read through the page cache.

A store is a folder of plain arrays: `tokens.bin` (uint32), `trained.bin` (uint8, not for `causal_lm`), `offsets.bin`
(int64, `[documents + 1]`; a pair of answers are two documents, the chosen one first) and `counts.json`. It is named by
a hash of all that decides its content.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from adapt.data.documents import PREFERENCE, Document, Objective, content, mismatch
from adapt.data.encoding import Encoded, Separators, encode_texts, tokenizer_hash
from adapt.data.sources import Source, is_held_out
from adapt.data.sources.base import digest
from adapt.errors import AdaptError

if TYPE_CHECKING:
    from adapt.display import Display

VERSION = 1
Numbered = tuple[int, Document]
Encoder = Callable[[list[Numbered]], list[Encoded]]
_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Counts:
    """What was read and what was written. `tokens` includes the `separators`; `bytes` are the text's in UTF-8.

    `joined` documents have a token that crosses from the prompt into the answer.
    """

    documents: int = 0
    held_out: int = 0
    empty: int = 0
    tokens: int = 0
    separators: int = 0
    bytes: int = 0
    joined: int = 0


@dataclass(frozen=True)
class Store:
    """A source's training documents as tokens: `tokens[offsets[d]:offsets[d + 1]]` is document `d`.

    `trained` has one byte a token, 1 where it carries loss; None where all of them do.
    """

    folder: Path
    tokens: np.ndarray
    trained: np.ndarray | None
    offsets: np.ndarray
    counts: Counts

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, `[documents]`."""
        return np.diff(self.offsets)


def open_store(
    source: Source, tokenizer: Any, objective: Objective, cache: Path, name: str = "", display: Display | None = None
) -> Store:
    """The source's tokens, made if they are not in the cache yet.

    Raises AdaptError for what cannot be read, for documents that do not fit the objective, for a source that gives no
    token, and where the disk is full.
    """
    form = "pairs" if objective in PREFERENCE else objective
    key = digest(VERSION, source.unchanged(), source.model_dump(mode="json"), tokenizer_hash(tokenizer), form)
    folder = cache / "tokens" / key
    if not folder.exists():
        if display is not None:
            display.line(f"  tokenising {name or source.origin}")
        _make(source, tokenizer, objective, folder)
    return _read(folder)


def _make(source: Source, tokenizer: Any, objective: Objective, folder: Path) -> None:
    before = source.fingerprint()
    try:
        temporary = _temporary(folder)
    except OSError as error:
        raise AdaptError(f"cannot write tokens below '{folder.parent}': {error.strerror or error}") from error
    try:
        counts = _write(source, _encoder(tokenizer, objective, source.origin), objective, temporary)
        if source.fingerprint() != before:
            raise AdaptError(f"{source.origin} changed while it was read; run again")
        if not counts.tokens:
            raise AdaptError(_nothing(source, counts))
        (temporary / "counts.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")
        _into_place(temporary, folder)
    except OSError as error:
        raise AdaptError(f"cannot write tokens below '{folder.parent}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """A new folder beside `folder`, after removing those that killed processes left for it."""
    import psutil

    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}-*"):
        if not psutil.pid_exists(int(left.suffix[1:] or 0)):
            shutil.rmtree(left, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}-{threading.get_ident()}.{os.getpid()}"
    temporary.mkdir()
    return temporary


def _into_place(temporary: Path, folder: Path) -> None:
    """Rename; where another process was faster, its folder holds the same."""
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.exists():
            raise


def _nothing(source: Source, counts: Counts) -> str:
    if counts.held_out:
        return f"{source.origin} leaves nothing to train on: all {counts.held_out:,} documents are held out"
    return f"{source.origin} gives no token: its {counts.empty:,} documents are empty"


def _encoder(tokenizer: Any, objective: Objective, origin: str) -> Encoder:
    """A function from a batch of numbered documents to their tokens."""
    if objective == "causal_lm":
        separators = Separators.of(tokenizer)
        return lambda batch: encode_texts(tokenizer, separators, [document["text"] for _, document in batch])
    from adapt.data.chat import sft_encoder
    from adapt.data.pairs import answers

    encode_one = sft_encoder(tokenizer)
    texts_of = answers if objective in PREFERENCE else lambda document: (document,)

    def encode(batch: list[Numbered]) -> list[Encoded]:
        return [
            _located(encode_one, text, f"{origin}, document {number}")
            for number, document in batch
            for text in texts_of(document)
        ]

    return encode


def _located(encode: Callable[[Document], Encoded], document: Document, place: str) -> Encoded:
    try:
        return encode(document)
    except AdaptError as error:
        raise AdaptError(f"{place}: {error}") from error


class _Writer:
    """Appends encoded documents to the arrays' files."""

    def __init__(self, tokens: IO[bytes], trained: IO[bytes] | None, offsets: IO[bytes]) -> None:
        self._tokens, self._trained, self._offsets = tokens, trained, offsets
        self._end = 0
        self._put(offsets, [0], np.int64)

    @staticmethod
    def _put(file: IO[bytes], values: list[int], kind: type) -> None:
        file.write(np.asarray(values, dtype=kind).tobytes())

    def add(self, batch: list[Encoded]) -> dict[str, int]:
        """Write a batch; returns what it adds to the counts."""
        ends = []
        for item in batch:
            self._put(self._tokens, item.ids, np.uint32)
            if self._trained is not None:
                self._put(self._trained, item.trained or [1] * len(item.ids), np.uint8)
            self._end += len(item.ids)
            ends.append(self._end)
        self._put(self._offsets, ends, np.int64)
        return {
            "documents": len(batch),
            "tokens": sum(len(item.ids) for item in batch),
            "separators": sum(item.separators for item in batch),
            "bytes": sum(item.bytes for item in batch),
            "joined": sum(item.joined for item in batch),
        }


def _write(source: Source, encode: Encoder, objective: Objective, folder: Path) -> Counts:
    """Read the source once, leave out what is held out or empty, and write the rest."""
    totals = asdict(Counts())
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "trained.bin").open("wb") as trained,
        (folder / "offsets.bin").open("wb") as offsets,
    ):
        writer = _Writer(tokens, trained if objective != "causal_lm" else None, offsets)
        for batch in _batches(_training(source, objective, totals)):
            for name, number in writer.add(encode(batch)).items():
                totals[name] += number
        for file in (tokens, trained, offsets):
            file.flush()
            os.fsync(file.fileno())
    return Counts(**totals)


def _training(source: Source, objective: Objective, totals: dict[str, int]) -> Iterator[Numbered]:
    """The documents to train on; what is left out is counted."""
    for number, document in enumerate(source.documents(), 1):
        reason = mismatch(document, objective)
        if reason is not None:
            raise AdaptError(f"{source.origin}, document {number}: {reason}")
        if objective == "causal_lm" and not document["text"].strip():
            totals["empty"] += 1
        elif is_held_out(document, source.held_out):
            totals["held_out"] += 1
        else:
            yield number, document


def _batches(documents: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    """Lists of documents of about a megabyte: enough for the fast tokenizer at once, and memory stays small."""
    batch: list[Numbered] = []
    size = 0
    for number, document in documents:
        batch.append((number, document))
        size += len(document["text"]) if "text" in document else len(content(document))
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read(folder: Path) -> Store:
    """Map the arrays; a store whose sizes do not agree was damaged, and is named."""
    try:
        counts = Counts(**json.loads((folder / "counts.json").read_text(encoding="utf-8")))
        load = partial(np.memmap, mode="r")
        tokens = load(folder / "tokens.bin", dtype=np.uint32)
        trained = load(folder / "trained.bin", dtype=np.uint8) if (folder / "trained.bin").stat().st_size else None
        offsets = load(folder / "offsets.bin", dtype=np.int64)
    except (OSError, ValueError, TypeError) as error:
        raise AdaptError(f"the cached tokens in '{folder}' are damaged ({error}); delete that folder") from error
    whole = len(offsets) == counts.documents + 1 and offsets[-1] == len(tokens) == counts.tokens
    if not whole or (trained is not None and len(trained) != len(tokens)):
        raise AdaptError(f"the cached tokens in '{folder}' are damaged (sizes do not agree); delete that folder")
    return Store(folder, tokens, trained, offsets, counts)
