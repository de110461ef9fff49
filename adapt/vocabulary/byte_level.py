"""Byte-level BPE in the terms of its `tokenizer.json`: what it is, and the text that its pieces stand for."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from adapt.errors import AdaptError


@cache
def byte_of() -> Mapping[str, int]:
    """The byte that each of the 256 characters of the byte alphabet stands for.

    Printable bytes stand for themselves, the others follow from U+0100 in order (Radford et al. 2019, GPT-2).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def to_bytes(piece: str) -> bytes:
    """The bytes of a piece that is written in the byte alphabet."""
    table = byte_of()
    return bytes(table[character] for character in piece)


def is_useful(piece: bytes, max_length: int | None = None) -> bool:
    """Whether a new piece may have these bytes.

    Whole characters, or the beginning of one single character (a step on the way to a character that the base has no
    piece for); never one that begins or ends inside a character and crosses a border as well, such a piece splits
    text in places that mean nothing. No digits: numbers stay cut as the model learned to read them. At most
    `max_length` characters.
    """
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError:
        return _begins_a_character(piece)
    short = max_length is None or len(text) <= max_length
    return short and not any(unicodedata.category(character).startswith("N") for character in text)


def _begins_a_character(piece: bytes) -> bool:
    length = 2 if 0xC2 <= piece[0] <= 0xDF else 3 if 0xE0 <= piece[0] <= 0xEF else 4 if 0xF0 <= piece[0] <= 0xF4 else 0
    return len(piece) < length and all(byte & 0xC0 == 0x80 for byte in piece[1:])


def _components(part: Any) -> Iterator[Mapping[str, Any]]:
    """A pre-tokenizer or decoder and all that it is made of."""
    if isinstance(part, Mapping):
        yield part
        for key in ("pretokenizers", "decoders"):
            for inner in part.get(key, ()):
                yield from _components(inner)


def check_byte_level(document: Mapping[str, Any], name: str) -> None:
    """Raise AdaptError, saying why, where a `tokenizer.json` is not byte-level BPE with plain merges."""
    model = document["model"]
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    byte_level = any(part.get("type") == "ByteLevel" for part in _components(document.get("pre_tokenizer")))
    reason = None
    if kind != "BPE":
        reason = f"it is a {kind} tokenizer"
    elif not byte_level:
        reason = "it is BPE over characters (SentencePiece), not over bytes"
    elif model.get("dropout"):
        reason = f"its merges are dropped at random (dropout {model['dropout']})"
    elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        reason = "it marks the beginning or end of words in its pieces"
    if reason:
        raise AdaptError(
            f"cannot expand the vocabulary of '{name}': {reason}; expand_vocabulary grows byte-level BPE "
            "(GPT-2, Llama-3, Qwen, tekken)"
        )
