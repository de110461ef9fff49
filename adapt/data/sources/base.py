"""What a source is: settings that say where documents come from, and rows that are read one at a time."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import PrivateAttr

from adapt.data.documents import Document, content, document_of
from adapt.errors import AdaptError
from adapt.settings import Settings, Share


class Place(NamedTuple):
    """Where a row stands: a file and a line or row that counts from 1, or something that is not a file."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}:{self.number}"


class Source(Settings, ABC):
    """Base of all sources. One file each; `adapt.data.sources.SOURCES` is the table."""

    key: ClassVar[str]
    """The key by which a recipe shows which kind of source it means."""

    field: str | None = None
    """The field of a row that holds the text or the messages. Empty: text, messages, or prompt with completion."""
    held_out: Share = 0.01
    """The share of documents that no stage trains on, for evaluation. Which ones depends on their content only."""

    _expected: str | None = PrivateAttr(None)

    @property
    @abstractmethod
    def origin(self) -> str:
        """The source as an error message names it."""

    @abstractmethod
    def located_rows(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The raw rows, in a fixed order, each with its place. Raises AdaptError for what cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content; two sources with equal settings and fingerprints give the same documents."""

    def expecting(self, fingerprint: str) -> Source:
        """The same source, which must still have this fingerprint when it is tokenised."""
        source = self.model_copy()
        source._expected = fingerprint
        return source

    def unchanged(self) -> str:
        """The fingerprint. Raises AdaptError where it is another than the expected one."""
        found = self.fingerprint()
        if self._expected not in (None, found):
            raise AdaptError(f"{self.origin} changed while the recipe ran; run again with what it is now")
        return found

    def missing(self) -> Iterator[str]:
        """What is not there, one message each, without reading the content."""
        return iter(())

    def relative_to(self, folder: Path) -> Source:
        """The same source with relative paths that are not below the working directory looked up in `folder`."""
        return self

    def rows(self) -> Iterator[dict[str, Any]]:
        """The raw rows, in a fixed order, for tasks that name their own fields."""
        return (row for _, row in self.located_rows())

    def documents(self) -> Iterator[Document]:
        """All documents, in a fixed order: `text`, `messages`, or `prompt` and `completion`.

        Raises AdaptError for a row that is no document, and where there is none at all.
        """
        found = False
        for place, row in self.located_rows():
            found = True
            yield document_of(row, self.field, place)
        if not found:
            raise AdaptError(f"{self.origin} holds no documents: it is empty")


def is_held_out(document: Document, share: float) -> bool:
    """Whether the document is kept from training: its content's hash, as a number in [0, 1), is below the share.

    The same content is on the same side in every run, every stage and every source with the same share; with a larger
    share, what was held out stays held out.
    """
    digest = hashlib.blake2b(content(document).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def training_documents(source: Source) -> Iterator[Document]:
    """The documents that may be trained on."""
    return (document for document in source.documents() if not is_held_out(document, source.held_out))


def held_out_documents(source: Source, limit_bytes: int | None = None) -> Iterator[Document]:
    """The documents that are never trained on; with a limit, the first ones until so many UTF-8 bytes are reached."""
    size = 0
    for document in source.documents():
        if limit_bytes is not None and size >= limit_bytes:
            return
        if is_held_out(document, source.held_out):
            size += len(content(document).encode("utf-8"))
            yield document


def digest(*parts: Any) -> str:
    """A hash of plain JSON data."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()
