"""`mode: replace`: a tokenizer trained afresh on the target, with what the base's tokenizer is around its pieces."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapt.errors import AdaptError
from adapt.vocabulary.byte_level import byte_of, is_byte_level
from adapt.vocabulary.formats import format_of
from adapt.vocabulary.renumbering import pair_of
from adapt.vocabulary.revision import Revision
from adapt.vocabulary.splice import core_of, first_free_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GENERAL_SHARE = 0.2
"""The share of the training text that is general text, where there is some."""


def mixed(target: Iterable[str], general: Iterable[str], share: float) -> Iterator[str]:
    """Target texts with general ones between them, which are `share` of all bytes for as long as they last."""
    general, seen, given = iter(general), 0, 0
    for text in target:
        yield text
        seen += len(text.encode("utf-8"))
        while given * (1 - share) < seen * share and (other := next(general, None)) is not None:
            yield other
            given += len(other.encode("utf-8"))


def replace_tokenizer(
    document: dict[str, Any], texts: Iterable[str], size: int, min_frequency: int = 2, name: str = "tokenizer.json"
) -> Revision:
    """Train `size` pieces (special tokens counted) on the texts and put them in place of the base's.

    Normaliser, pre-tokenizer, decoder, post-processor, special and added tokens are the base's. A token that both
    tokenizers have keeps its id for now; others stand behind the base's, each with its parts: how the base's merges
    cut it (Gee et al., EMNLP 2022 Industry Track). Until the ids are closed up the old pieces stay listed, without a
    merge that makes them. Raises AdaptError for a tokenizer that is not byte-level BPE and for a size below that of
    the byte alphabet with the special tokens.
    """
    format_of(document, name)
    if not is_byte_level(document):
        raise AdaptError(
            f"cannot replace the vocabulary of '{name}': it is SentencePiece, whose pieces are characters; "
            "mode: replace trains byte-level BPE, use mode: expand, with prune where the vocabulary must shrink"
        )
    base = core_of(document)
    pieces, merges = _trained(base, document, texts, size, min_frequency, name)
    old = {token["content"]: token["id"] for token in document["added_tokens"]} | dict(document["model"]["vocab"])
    first = first_free_id(document)
    new = [piece for piece in pieces if piece not in old]
    ids = {piece: first + rank for rank, piece in enumerate(new)}
    replaced = copy.deepcopy(document)
    replaced["model"] |= {"vocab": old | ids, "merges": _written(merges, document), "ignore_merges": False}
    made = {"".join(pair): pair for pair in reversed(merges)}
    every = old | ids
    kept = set(pieces) | {token["content"] for token in document["added_tokens"]} | {document["model"].get("unk_token")}
    return Revision(
        base,
        replaced,
        list(ids.values()),
        new,
        [tuple(token.id for token in base.model.tokenize(piece)) for piece in new],
        [tuple(every[part] for part in made[piece]) if piece in made else None for piece in new],
        frozenset(index for token, index in old.items() if token not in kept),
    )


def _written(merges: Sequence[tuple[str, str]], document: Mapping[str, Any]) -> list[Any]:
    """Merges in the form that the base's file has."""
    before = document["model"]["merges"]
    as_text = bool(before) and isinstance(before[0], str)
    return [" ".join(pair) if as_text else list(pair) for pair in merges]


def _trained(
    base: Tokenizer, document: Mapping[str, Any], texts: Iterable[str], size: int, min_frequency: int, name: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces in the order of their ids, bytes first, and the merges by priority."""
    from tokenizers import trainers

    added = [token["content"] for token in document["added_tokens"]]
    least = len(byte_of()) + len(added)
    if size < least:
        raise AdaptError(
            f"a vocabulary of {size:,} cannot replace that of '{name}': {len(byte_of())} bytes and {len(added)} "
            f"special tokens alone are {least:,}; give a larger size"
        )
    fresh = core_of({**document, "added_tokens": [], "post_processor": None, "model": _empty(document["model"])})
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(added),
        min_frequency=min_frequency,
        initial_alphabet=sorted(byte_of()),
        limit_alphabet=len(byte_of()),
        show_progress=False,
    )
    fresh.train_from_iterator(_without(texts, added), trainer)
    model = json.loads(fresh.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return [piece for piece in pieces if piece not in set(added)], [pair_of(merge) for merge in model["merges"]]


def _empty(model: Mapping[str, Any]) -> dict[str, Any]:
    return {**model, "vocab": {}, "merges": [], "unk_token": None, "ignore_merges": False}


def _without(texts: Iterable[str], added: Sequence[str]) -> Iterator[str]:
    """The text between special and added tokens, which no piece can hold a part of."""
    longest_first = sorted(filter(None, added), key=len, reverse=True)
    outside = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
    for text in texts:
        yield from filter(None, outside.split(text)) if outside else (text,)


def unreachable(revision: Revision) -> int:
    """How many new pieces their own merges do not build from their own text (runs of one symbol may be such)."""
    model = core_of(revision.document).model
    return sum(
        [token.id for token in model.tokenize(piece)] != [index]
        for piece, index in zip(revision.tokens, revision.ids, strict=True)
    )
