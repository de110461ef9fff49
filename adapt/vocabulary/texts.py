"""The texts that a vocabulary is learned from and measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapt.data.sources import held_out_documents, training_documents
from adapt.errors import AdaptError
from adapt.vocabulary.words import text_of, up_to

if TYPE_CHECKING:
    from adapt.data.sources import Source

LEAST_HELD_OUT = 20_000
"""Bytes of held-out text on which the tokenizer is measured even where the model is not."""


def training_texts(names: Iterable[str], sources: Mapping[str, Source], sample: int | None) -> Iterator[str]:
    """The training texts of the sources; with a sample, that many bytes in all, evenly of each."""
    names = tuple(names)
    share = None if sample is None else -(-sample // max(1, len(names)))
    texts = (up_to(map(text_of, training_documents(sources[name])), share) for name in names)
    return itertools.chain.from_iterable(texts)


def held_out_texts(names: Sequence[str], sources: Mapping[str, Source], size: int) -> list[str]:
    """`size` bytes of each source's held-out texts, and no less than is needed to measure a tokenizer.

    Raises AdaptError where the sources hold none.
    """
    limit = max(size, LEAST_HELD_OUT)
    texts = [text_of(document) for name in names for document in held_out_documents(sources[name], limit)]
    if not any(text.strip() for text in texts):
        raise AdaptError(
            f"{', '.join(repr(name) for name in names)} holds no held-out text to measure the new vocabulary on; "
            "raise its held_out, for example to 5%"
        )
    return texts


@dataclass(frozen=True)
class Texts:
    """The texts of one change, by what they are for. Each call reads anew; `held_out` played no part in any choice."""

    sources: Mapping[str, Source]
    corpus_names: Sequence[str]
    general_name: str | None
    protect_names: Sequence[str]
    sample: int | None
    held_out: Sequence[str]

    def corpus(self) -> Iterator[str]:
        """What pieces are learned from."""
        return training_texts(self.corpus_names, self.sources, self.sample)

    def general(self) -> Iterator[str]:
        """General text; nothing where none is named."""
        return training_texts([self.general_name] if self.general_name else [], self.sources, self.sample)

    def protected(self) -> Iterator[str]:
        """Text that must stay cut as it is."""
        return training_texts(self.protect_names, self.sources, self.sample)

    def every(self) -> Iterator[str]:
        """All of these, and the held-out texts."""
        return itertools.chain(self.corpus(), self.general(), self.protected(), self.held_out)

    def tokens(self, given: str | Sequence[str]) -> Sequence[str]:
        """A list of tokens as it is; of a source that has one in each document, all documents."""
        if not isinstance(given, str):
            return given
        return [text for text in map(text_of, self.sources[given].documents()) if text]
