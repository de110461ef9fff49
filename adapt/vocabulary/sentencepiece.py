"""SentencePiece BPE with byte fallback (Llama-2, Mistral v1) in the terms of its `tokenizer.json`.

Its alphabet is characters. A space is written "▁"; a character that has no piece falls back to one byte piece
`<0xNN>` for each byte of its UTF-8. Nothing merges with a byte piece, so a character must have a piece of its own
before a longer piece can hold it: what such a piece is made of are the byte pieces of its character.

SentencePiece has no list of merges. It joins any two neighbours whose concatenation is a piece, the one with the
highest score first (Kudo and Richardson 2018, arXiv 1808.06226); `tokenizer.json` lists the pairs. Appending one pair
for each new piece, with a score below all before it, says the same to both: which merges are made inside a stretch
of text with a border at either end depends on nothing outside of it, so wherever all merges so far are done and the
stretch reads like the new piece, it is cut into the same two parts. And a stretch that reads like an old piece is
that piece already, so no new piece can become a part of an old one. The second holds for old pieces that their own
string reaches; so a new piece may be neither beginning nor end of one that cannot be reached.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.chain import BORDER, symbol_of
from adapt.vocabulary.splice import core_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

SPACE = "▁"
_LETTERS = r"\p{L}\p{M}\x{200C}\x{200D}"
_WORD = rf"▁*[{_LETTERS}]+|▁*\p{{N}}+|▁*[^▁\p{{N}}{_LETTERS}]+|▁+"
_JOINERS = "\u200c\u200d"


def byte_piece(byte: int) -> str:
    """How SentencePiece writes the piece of a byte, as `<0x0A>`."""
    return f"<0x{byte:02X}>"


def is_useful(piece: str, max_length: int | None = None) -> bool:
    """Whether a new piece may be written like this.

    "▁" only at its beginning, no digits, then either letters with their marks or none at all: the borders that
    SentencePiece's own trainer keeps (`split_by_whitespace`, `split_digits`, `split_by_unicode_script`). No control
    characters and code points that mean nothing. At most `max_length` characters, the "▁" counted.
    """
    if max_length is not None and len(piece) > max_length:
        return False
    kinds = {_kind(character) for character in (piece[1:] if piece[:1] == SPACE else piece)}
    return len(kinds) == 1 and not kinds & {"space", "number", "nothing"}


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character == SPACE or character.isspace():
        return "space"
    if category[0] in "LM" or character in _JOINERS:
        return "letter"
    if category in ("Cc", "Cn", "Co", "Cs"):
        return "nothing"
    return "number" if category[0] == "N" else "other"


def cutter(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """Cut normalised text into words: spaces with the letters, the digits or the other characters that follow.

    No new piece crosses such a border; where no old one does either, which holds of models that SentencePiece
    trained with its usual settings, a word alone is cut as within its text.
    """
    from tokenizers import Regex, pre_tokenizers

    steps: list[PreTokenizer] = [pre_tokenizers.Split(Regex(_WORD), "isolated")]
    if tokenizer.pre_tokenizer is not None:
        steps.insert(0, tokenizer.pre_tokenizer)
    cut = pre_tokenizers.Sequence(steps)
    return lambda text: [word for word, _ in cut.pre_tokenize_str(text)]


@dataclass(frozen=True)
class SentencePiece:
    """A vocabulary over characters with byte fallback: what learning asks of a format.

    `bytes[i]` is the id of the piece of byte i; `forbidden` are the beginnings and ends of pieces out of reach.
    """

    bytes: Sequence[int]
    forbidden: Collection[str] = frozenset()

    @cached_property
    def _byte_of(self) -> dict[int, int]:
        return {index: byte for byte, index in enumerate(self.bytes)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> SentencePiece:
        """The format of a `tokenizer.json` of this kind."""
        vocabulary = document["model"]["vocab"]
        bytes_of = {byte_piece(byte): vocabulary[byte_piece(byte)] for byte in range(256)}
        apart = {token["content"] for token in document["added_tokens"]} | bytes_of.keys()
        model = core_of(document).model
        pieces = (piece for piece in vocabulary if piece not in apart)
        unreached = (piece for piece in pieces if [token.id for token in model.tokenize(piece)] != [vocabulary[piece]])
        return cls(list(bytes_of.values()), frozenset(_ends(unreached)))

    def symbols(self, ids: Sequence[int]) -> list[int]:
        """A word's ids with the byte pieces of each character put together as one symbol of that character.

        A character of a single byte has nothing to gain from a piece: a border.
        """
        symbols: list[int] = []
        pending = bytearray()
        for index in ids:
            if index not in self._byte_of:
                symbols.append(index)
                continue
            pending.append(self._byte_of[index])
            try:
                character = pending.decode("utf-8")
            except UnicodeDecodeError:
                continue
            symbols.append(symbol_of(character) if len(pending) > 1 else BORDER)
            pending.clear()
        return symbols

    def fits(self, piece: str, max_length: int | None) -> bool:
        """Whether the piece is useful and no part of an old one that cannot be reached."""
        return is_useful(piece, max_length) and piece not in self.forbidden

    def text(self, piece: str) -> str:
        """The text that a piece stands for."""
        return piece.replace(SPACE, " ")


def _ends(pieces: Iterable[str]) -> Iterator[str]:
    """The beginnings and ends of each piece, all that are shorter than the piece."""
    for piece in pieces:
        for index in range(1, len(piece)):
            yield piece[:index]
            yield piece[index:]


def first_missing_byte(vocabulary: Collection[str]) -> str | None:
    """A byte that the vocabulary has no piece for."""
    return next((piece for piece in map(byte_piece, range(256)) if piece not in vocabulary), None)


def merges_bytes(merges: Iterable[str | Sequence[str]]) -> bool:
    """Whether a byte piece takes part in a merge, which SentencePiece cannot express."""
    pieces = {byte_piece(byte) for byte in range(256)}
    return any(not pieces.isdisjoint(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges)
