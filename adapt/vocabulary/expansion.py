"""From a tokenizer and texts to a grown tokenizer: count, learn, splice, check, measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.errors import AdaptError
from adapt.vocabulary.byte_level import ByteLevel
from adapt.vocabulary.chain import BORDER, Words
from adapt.vocabulary.formats import format_of
from adapt.vocabulary.invariants import PROBES, check_ids, check_reachable, check_segmentation, parts_of
from adapt.vocabulary.learning import Piece, learn
from adapt.vocabulary.measures import curve, fit, token_counts, usage
from adapt.vocabulary.sentencepiece import SentencePiece
from adapt.vocabulary.splice import core_of, first_free_id, spliced
from adapt.vocabulary.unused import needed
from adapt.vocabulary.words import count_words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLE = 200
"""Held-out texts on which a run checks the invariants."""
_LARGE = 1_000_000
"""Bytes of held-out text from which on a piece that does not occur in it is taken to be useless."""


@dataclass(frozen=True)
class Growth:
    """How many pieces to learn, and which may not be.

    `min_frequency` is the fewest tokens that a piece must save, `max_length` the most characters that it may have.
    `drop_unused` drops pieces that never occur in the held-out text and are no step of one that does; the rest moves
    up. Not given, it is done where the held-out text has at least 1 MB and a tenth of the corpus's tokens: in less,
    that a piece does not occur says little about it.
    """

    add: int
    min_frequency: int = 2
    max_length: int | None = None
    drop_unused: bool | None = None


@dataclass(frozen=True)
class Grown:
    """A grown tokenizer: its `tokenizer.json`, the new pieces in learning order, and what each is made of."""

    base: Tokenizer
    tokenizer: Tokenizer
    document: dict[str, Any]
    pieces: Sequence[Piece]

    @property
    def ids(self) -> list[int]:
        """The new ids, in learning order; they follow the largest old one without a gap."""
        return [piece.id for piece in self.pieces]

    @property
    def parts(self) -> list[tuple[int, ...]]:
        """The old ids that each new piece is made of."""
        parts = parts_of(self.pieces)
        return [parts[piece.id] for piece in self.pieces]

    @property
    def texts(self) -> list[str]:
        """The text that each new piece stands for."""
        format = format_of(self.document, "tokenizer.json")
        return [format.text(piece.string) for piece in self.pieces]


def expand(
    document: dict[str, Any],
    growth: Growth,
    corpus: Iterable[str],
    held_out: Sequence[str] = (),
    protect: Iterable[str] = (),
    name: str = "tokenizer.json",
) -> Grown:
    """Learn pieces on the corpus and splice them into a `tokenizer.json`, with its invariants checked.

    `held_out` is only counted, `protect` are texts that must stay cut as they are. Raises AdaptError for a tokenizer
    that cannot grow (`formats.format_of`), for a corpus in which nothing can be learned and for a result that breaks
    a rule.
    """
    format = format_of(document, name)
    base = core_of(document)
    strings = {index: piece for piece, index in base.get_vocab(with_added_tokens=True).items()}
    words = _words(base, format, corpus, held_out, protect)
    pieces = learn(
        words,
        strings,
        strings.values(),
        first_free_id(document),
        growth.add,
        growth.min_frequency,
        lambda piece: format.fits(piece, growth.max_length),
        format.bytes,
    )
    if not pieces:
        raise AdaptError(
            f"no pair of pieces in the corpus saves {growth.min_frequency} tokens or more, so there is nothing to add "
            f"to the vocabulary of '{name}'; give more text or lower min_frequency"
        )
    if _drops(growth, words, held_out):
        pieces = _used(base, document, pieces, strings, held_out, name)
    grown = spliced(document, pieces, strings)
    result = Grown(base, core_of(grown), grown, pieces)
    check_ids(base, result.tokenizer)
    check_reachable(grown, pieces)
    check_segmentation(base, result.tokenizer, pieces, (*PROBES, *held_out[:_SAMPLE]))
    return result


def _words(
    base: Tokenizer,
    format: ByteLevel | SentencePiece,
    corpus: Iterable[str],
    held_out: Iterable[str],
    protect: Iterable[str],
) -> Words:
    counted = [count_words(base, texts) for texts in (corpus, held_out, protect)]
    words = sorted(set().union(*counted))
    columns = [np.fromiter((counts[word] for word in words), np.int64, len(words)) for counts in counted]
    unknown = base.token_to_id(base.model.unk_token) if base.model.unk_token else None
    cut = ([BORDER if token.id == unknown else token.id for token in base.model.tokenize(word)] for word in words)
    return Words([format.symbols(ids) for ids in cut], columns[0], columns[1], columns[2] > 0)


def _drops(growth: Growth, words: Words, held_out: Sequence[str]) -> bool:
    """Whether pieces that the held-out text never uses are to be dropped."""
    if growth.drop_unused is not None:
        return growth.drop_unused
    lengths = np.fromiter((len(ids) for ids in words.ids), np.int64, len(words.ids))
    enough = 10 * int(lengths @ words.held_out) >= int(lengths @ words.counts)
    return enough and sum(len(text.encode("utf-8")) for text in held_out) >= _LARGE


def _used(
    base: Tokenizer,
    document: dict[str, Any],
    pieces: Sequence[Piece],
    strings: dict[int, str],
    held_out: Sequence[str],
    name: str,
) -> list[Piece]:
    """The pieces that occur in the held-out text, and those that they are built from."""
    counts = token_counts(core_of(spliced(document, pieces, strings)), held_out)
    used = [piece.id for piece in pieces if counts[piece.id]]
    kept = needed(pieces, used)
    if not kept:
        raise AdaptError(
            f"none of the {len(pieces)} new pieces for '{name}' occurs in the held-out text, so all would be dropped; "
            "give held-out text of the corpus's language or set drop_unused to false"
        )
    return kept


def tokenizer_report(grown: Grown, held_out: Sequence[str]) -> dict[str, Any]:
    """What the new pieces bring on held-out text: fertility and bytes per token, the curve, how many are used."""
    before = token_counts(grown.base, held_out)
    after = token_counts(grown.tokenizer, held_out)
    return {
        "before": fit(before.total(), held_out),
        "after": fit(after.total(), held_out),
        "saving": 1 - after.total() / max(1, before.total()),
        "curve": curve(grown.pieces, before.total(), held_out),
        "used": usage(after, grown.ids),
        "steps_only": len(_steps_only(grown)),
        "unreachable": 0,
    }


def _steps_only(grown: Grown) -> list[int]:
    """Pieces that the corpus shows only inside longer ones: kept, since their parents are built through them."""
    left: dict[int, int] = {piece.id: piece.merges for piece in grown.pieces}
    for piece in grown.pieces:
        for side in (piece.left, piece.right):
            if side in left:
                left[side] -= piece.merges
    return [index for index, count in left.items() if count <= 0]
