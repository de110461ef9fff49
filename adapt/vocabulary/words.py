"""Text cut into the words that merges cannot leave, and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from adapt.vocabulary import byte_level, sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def text_of(document: Mapping[str, Any]) -> str:
    """The text of a document: its `text`, or what is said in its messages or prompt and completion."""
    if "text" in document:
        return document["text"]
    parts = (document.get(key, ()) for key in ("messages", "prompt", "completion"))
    return "\n".join(line for part in parts for line in _said(part))


def _said(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
        return
    for message in part:
        if isinstance(message.get("content"), str):
            yield message["content"]


def up_to(texts: Iterable[str], size: int | None) -> Iterator[str]:
    """Texts until `size` bytes are reached; all of them if `size` is None."""
    left = size
    for text in texts:
        if left is not None:
            if left <= 0:
                return
            left -= len(text.encode("utf-8"))
        yield text


def count_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, written in the alphabet of the tokenizer's pieces.

    The tokenizer's own normaliser and pre-tokenizer cut the text, with SentencePiece also the borders that no piece
    crosses; added and special tokens are cut out first, since no piece can hold a part of them.
    """
    added = sorted((token.content for token in tokenizer.get_added_tokens_decoder().values()), key=len, reverse=True)
    outside = re.compile("|".join(map(re.escape, added))) if added else None
    falls_back = getattr(tokenizer.model, "byte_fallback", False)
    cut = sentencepiece.cutter(tokenizer) if falls_back else byte_level.cutter(tokenizer)
    words: Counter[str] = Counter()
    for text in texts:
        for part in outside.split(text) if outside else (text,):
            if tokenizer.normalizer is not None:
                part = tokenizer.normalizer.normalize_str(part)
            words.update(cut(part))
    return words
