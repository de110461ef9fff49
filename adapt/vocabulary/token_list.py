"""`mode: tokens`: given strings become pieces, built by real merges, or special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.errors import AdaptError
from adapt.vocabulary.byte_level import ByteLevel
from adapt.vocabulary.expansion import Grown
from adapt.vocabulary.formats import format_of
from adapt.vocabulary.invariants import PROBES, check_ids, check_reachable, check_segmentation
from adapt.vocabulary.learning import Piece, Words, learn
from adapt.vocabulary.revision import Revision, of_grown
from adapt.vocabulary.splice import core_of, first_free_id, spliced
from adapt.vocabulary.words import count_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from adapt.vocabulary.sentencepiece import SentencePiece

_SAMPLE = 200
"""Held-out texts on which a run checks the invariants."""
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True)
class Listed:
    """What a tokenizer becomes with given tokens; those of them that were not added, each with the reason.

    `steps` is how many of the new pieces only lead to a token.
    """

    revision: Revision
    skipped: Mapping[str, str]
    steps: int = 0


def add_pieces(
    document: dict[str, Any],
    tokens: Sequence[str],
    corpus: Iterable[str],
    held_out: Sequence[str] = (),
    name: str = "tokenizer.json",
) -> Listed:
    """Make each token a piece that stands for every word which is exactly that token.

    BPE can only make a piece by merging two. So BPE is continued on the tokens alone, from how the base cuts them
    until each is one piece; the merges stand behind all others, and text without the tokens is cut as before. In a
    longer word the piece occurs where the base's cut has borders at both of its ends. A token without a space before
    it is also made in the form with one, which is another piece, where a word of the corpus begins so. Raises
    AdaptError for a token that the tokenizer never sees as one word, and where nothing is left to add.
    """
    base, kind = core_of(document), format_of(document, name)
    forms = _forms(base, kind, list(dict.fromkeys(tokens)), count_words(base, corpus))
    vocabulary = base.get_vocab(with_added_tokens=True)
    skipped = {token: "a piece already" for token, word in forms.items() if word in vocabulary}
    wanted = {token: word for token, word in forms.items() if token not in skipped}
    pieces = _learned(base, document, kind, wanted.values())
    made = {piece.string for piece in pieces}
    refused = [token for token, word in wanted.items() if word not in made]
    if refused:  # once more without them, so that their beginnings do not take rows
        skipped |= dict.fromkeys(refused, "no merges can build it")
        wanted = {token: word for token, word in wanted.items() if token not in refused}
        pieces = _learned(base, document, kind, wanted.values())
    if not pieces:
        token, reason = next(iter(skipped.items()))
        raise AdaptError(f"none of the {len(tokens)} tokens can be added to '{name}'; '{token}': {reason}")
    grown = _checked(base, document, pieces, held_out)
    skipped = {token: reason for token, reason in skipped.items() if token in set(tokens)}
    return Listed(of_grown(grown), skipped, len(pieces) - len(set(wanted.values())))


def _checked(base: Tokenizer, document: dict[str, Any], pieces: Sequence[Piece], texts: Sequence[str]) -> Grown:
    strings = {index: piece for piece, index in base.get_vocab(with_added_tokens=True).items()}
    grown = spliced(document, pieces, strings)
    result = Grown(base, core_of(grown), grown, pieces)
    check_ids(base, result.tokenizer)
    check_reachable(grown, pieces)
    check_segmentation(base, result.tokenizer, pieces, (*PROBES, *texts[:_SAMPLE]))
    return result


def _forms(
    base: Tokenizer, kind: ByteLevel | SentencePiece, tokens: Sequence[str], corpus: Mapping[str, int]
) -> dict[str, str]:
    """Each token and its word in the tokenizer's own alphabet; behind them the forms after a space."""
    forms = {token: _word(base, kind, token) for token in tokens}
    spaced = {f" {token}": list(count_words(base, [f" {token}"])) for token in tokens if not token[0].isspace()}
    later = {token: words[0] for token, words in spaced.items() if len(words) == 1}
    sought, lengths = set(later.values()), {len(word) for word in later.values()}
    seen = {word[:length] for word in corpus for length in lengths if word[:length] in sought}
    return forms | {token: word for token, word in later.items() if word in seen and word not in forms.values()}


def _word(base: Tokenizer, kind: ByteLevel | SentencePiece, token: str) -> str:
    words = count_words(base, [token])
    if words.total() != 1:
        cut = " and ".join(f"'{kind.text(word)}'" for word in words) or "nothing"
        raise AdaptError(
            f"the token '{token}' cannot become one piece: the tokenizer cuts text into words first, and this into "
            f"{cut}; give its words one by one, or set special: true"
        )
    return next(iter(words))


def _learned(
    base: Tokenizer, document: dict[str, Any], kind: ByteLevel | SentencePiece, words: Iterable[str]
) -> list[Piece]:
    """The merges that BPE learns on these words, each once, until nothing is left to merge."""
    strings = {index: piece for piece, index in base.get_vocab(with_added_tokens=True).items()}
    cut = [kind.symbols([token.id for token in base.model.tokenize(word)]) for word in dict.fromkeys(words)]
    none = np.zeros(len(cut), np.int64)
    given, steps = Words(cut, none + 1, none, none > 0), 2 * sum(map(len, cut))
    if not cut:
        return []
    first = first_free_id(document)
    return learn(given, strings, strings.values(), first, steps, 1, lambda piece: _fits(kind, piece), kind.bytes)


def _fits(kind: ByteLevel | SentencePiece, piece: str) -> bool:
    """As in an expansion, but a person who asks for a token with digits means it."""
    digits = isinstance(kind, ByteLevel) and "\ufffd" not in kind.text(piece)
    return digits or kind.fits(piece, None)


def add_special(document: dict[str, Any], tokens: Sequence[str], name: str = "tokenizer.json") -> Listed:
    """Add tokens that are found in text before anything else cuts it, for control words such as `<|tool|>`.

    Their parts are the base's cut of the text. Raises AdaptError where nothing is left to add.
    """
    format_of(document, name)
    base = core_of(document)
    known = base.get_vocab(with_added_tokens=True)
    skipped = {token: "a token already" for token in tokens if token in known}
    new = [token for token in dict.fromkeys(tokens) if token not in known]
    if not new:
        raise AdaptError(f"all of the {len(tokens)} tokens are in the vocabulary of '{name}' already")
    first = first_free_id(document)
    ids = list(range(first, first + len(new)))
    grown = spliced(document, (), {})
    for index, token in zip(ids, new, strict=True):
        grown["added_tokens"].append({"id": index, "content": token, **_FLAGS})
        grown["model"]["vocab"][token] = index
    parts = [tuple(base.encode(token, add_special_tokens=False).ids) for token in new]
    return Listed(Revision(base, grown, ids, new, parts, [None] * len(new)), skipped)
