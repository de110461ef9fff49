"""Byte-level BPE (GPT-2, Llama-3, Qwen, tekken) in the terms of its `tokenizer.json`."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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


def cutter(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """Cut normalised text into words, written in the byte alphabet, as the tokenizer does."""
    return lambda text: [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


class ByteLevel:
    """A vocabulary over bytes: what learning asks of a format."""

    bytes: tuple[int, ...] = ()
    """No byte pieces apart from the others: nothing falls back."""

    def symbols(self, ids: Sequence[int]) -> Sequence[int]:
        """A word's ids: each byte has a piece, so all of them may merge."""
        return ids

    def fits(self, piece: str, max_length: int | None) -> bool:
        """Whether a piece in the byte alphabet may be added."""
        return is_useful(to_bytes(piece), max_length)

    def text(self, piece: str) -> str:
        """The text that a piece stands for; U+FFFD for the beginning of a character."""
        return to_bytes(piece).decode("utf-8", errors="replace")


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether the pieces of a `tokenizer.json` are written in the byte alphabet."""
    return any(part.get("type") == "ByteLevel" for part in _components(document.get("pre_tokenizer")))


def not_plain_bpe(document: Mapping[str, Any]) -> str | None:
    """Why a tokenizer is not BPE with plain merges; None if it is."""
    model = document["model"]
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        return f"it is a {kind} tokenizer"
    if model.get("dropout"):
        return f"its merges are dropped at random (dropout {model['dropout']})"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "it marks the beginning or end of words in its pieces"
    return None


def check_byte_level(document: Mapping[str, Any], name: str) -> None:
    """Raise AdaptError, saying why, where a `tokenizer.json` is not byte-level BPE with plain merges."""
    reason = not_plain_bpe(document)
    if reason is None and not is_byte_level(document):
        reason = "it is BPE over characters (SentencePiece), not over bytes"
    if reason:
        raise AdaptError(
            f"cannot change the vocabulary of '{name}' in this way: {reason}; that needs byte-level BPE "
            "(GPT-2, Llama-3, Qwen, tekken)"
        )
