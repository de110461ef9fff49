"""What a tokenizer does to a text, in the numbers by which tokenizers are compared."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.byte_level import is_byte_level, to_bytes
from adapt.vocabulary.measures import fit, token_counts
from adapt.vocabulary.sentencepiece import SPACE, byte_piece
from adapt.vocabulary.splice import core_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ALPHA = 2.5


def token_bytes(document: Mapping[str, Any]) -> dict[int, bytes]:
    """The bytes of text that each token stands for; those of an added token are its own."""
    pieces = {index: piece for piece, index in document["model"]["vocab"].items()}
    added = {token["id"]: token["content"].encode("utf-8") for token in document["added_tokens"]}
    ordinary = {index: piece for index, piece in pieces.items() if index not in added}
    if is_byte_level(document):
        return {index: to_bytes(piece) for index, piece in ordinary.items()} | added
    of_bytes = {byte_piece(byte): bytes((byte,)) for byte in range(256)}
    spaced = {
        index: of_bytes.get(piece, piece.replace(SPACE, " ").encode("utf-8")) for index, piece in ordinary.items()
    }
    return spaced | added


def coverage(document: Mapping[str, Any], texts: Sequence[str]) -> dict[str, float]:
    """How a `tokenizer.json` covers some texts.

    `fertility` (tokens per word between white space), `bytes_per_token`, `characters_per_token`; `single_bytes`, the
    share of tokens that are one byte long, and `inside_characters`, that of tokens that are only a part of a character
    (a script that the tokenizer hardly knows); `whole_words`, the share of words that are one token; `renyi`, the
    Rényi efficiency.
    """
    core = core_of(document)
    counts, spelled = token_counts(core, texts), token_bytes(document)
    tokens = counts.total()
    size = sum(len(text.encode("utf-8")) for text in texts)
    return {
        "bytes": size,
        "tokens": tokens,
        **fit(tokens, texts),
        "characters_per_token": sum(map(len, texts)) / max(1, tokens),
        "single_bytes": _share(counts, (index for index in counts if len(spelled.get(index, b"")) == 1)),
        "inside_characters": _share(counts, (index for index in counts if not _whole(spelled.get(index, b"")))),
        "whole_words": whole_words(core, texts),
        "renyi": renyi_efficiency(list(counts.values()), core.get_vocab_size(with_added_tokens=True)),
    }


def _share(counts: Mapping[int, int], ids: Iterable[int]) -> float:
    return sum(counts[index] for index in ids) / max(1, sum(counts.values()))


def _whole(content: bytes) -> bool:
    """Whether the bytes are whole characters."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def whole_words(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """The share of words, without the punctuation around them, that are one token after a space."""
    words = Counter(word for text in texts for word in map(_bare, text.split()) if word)
    before = len(tokenizer.encode("a", add_special_tokens=False).ids)
    distinct = list(words)
    encoded = tokenizer.encode_batch([f"a {word}" for word in distinct], add_special_tokens=False)
    whole = sum(words[word] for word, found in zip(distinct, encoded, strict=True) if len(found.ids) == before + 1)
    return whole / max(1, words.total())


def _bare(word: str) -> str:
    kept = [place for place, character in enumerate(word) if unicodedata.category(character)[0] not in "PS"]
    return word[kept[0] : kept[-1] + 1] if kept else ""


def renyi_efficiency(counts: Sequence[int], vocabulary: int, alpha: float = ALPHA) -> float:
    """`H_alpha / log V` with `H_alpha = log(sum_i p_i^alpha) / (1 - alpha)`: how evenly the vocabulary is used.

    The measure that follows translation quality best at alpha 2.5 (Zouhar et al., ACL 2023, arXiv 2306.16842). `counts`
    are those of the tokens that occur, `vocabulary` the number of all tokens.
    """
    total = sum(counts)
    if not total or vocabulary < 2:
        return 0.0
    return math.log(sum((count / total) ** alpha for count in counts)) / (1 - alpha) / math.log(vocabulary)
