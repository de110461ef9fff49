"""Leaf-based pruning: old pieces that text does not need are given up, never one that a kept merge is built from."""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from adapt.vocabulary.byte_level import byte_of
from adapt.vocabulary.renumbering import pair_of
from adapt.vocabulary.sentencepiece import SPACE
from adapt.vocabulary.splice import core_of
from adapt.vocabulary.words import count_words

Unused = Literal["unused"]
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def usage_of_pieces(document: Mapping[str, Any], texts: Iterable[str]) -> Counter[int]:
    """How often each piece occurs in the texts, outside of special and added tokens."""
    tokenizer, counts = core_of(document), Counter()
    for word, count in count_words(tokenizer, texts).items():
        for token in tokenizer.model.tokenize(word):
            counts[token.id] += count
    return counts


def prunable(document: Mapping[str, Any], old: Collection[int], keep: Collection[int]) -> set[int]:
    """Ids that may go: of `old`, all but those to `keep`, special and added tokens, the unknown token and bytes.

    SentencePiece's "▁" stays as well: as bytes it would come back as itself, not as a space.
    """
    model = document["model"]
    fixed = {token["id"] for token in document["added_tokens"]} | set(keep)
    return {
        index
        for token, index in model["vocab"].items()
        if index in old
        and index not in fixed
        and token != model.get("unk_token")
        and token not in byte_of()
        and token != SPACE
        and not _BYTE.fullmatch(token)
    }


def how_many(amount: float | Unused, vocabulary: int) -> int:
    """The number of pieces that `amount` means: a count, a share of the vocabulary, or all that are unused."""
    if isinstance(amount, str):
        return vocabulary
    return amount if isinstance(amount, int) else round(amount * vocabulary)


def pruned(
    document: Mapping[str, Any], free: Collection[int], counts: Mapping[int, int], limit: int, only_unused: bool
) -> frozenset[int]:
    """The ids to give up, at most `limit` of those that are `free`, the least used first.

    Leaf-based pruning (Purason et al. 2025, arXiv 2512.03989). A leaf is a piece that no kept merge builds on. BPE
    never takes such a piece apart again, so where it is not in a text's tokens it played no part in cutting it:
    without its merges every text that does not use it is cut as before, and where it is used its two parts stand
    instead (their counts grow by its own). A piece becomes a leaf when all that is built from it has gone.
    `counts` is how often each id occurs; with `only_unused` nothing that occurs goes.
    """
    makers = _makers(document)
    needed = Counter(part for pairs in makers.values() for pair in pairs for part in pair)
    counts, gone = Counter(counts), set()
    leaves = [(counts[index], -index) for index in free if not needed[index]]
    heapq.heapify(leaves)
    while leaves and len(gone) < limit:
        count, index = heapq.heappop(leaves)
        index = -index
        if count != counts[index]:  # what was built from it has gone since, and now it stands there itself
            heapq.heappush(leaves, (counts[index], -index))
            continue
        if only_unused and count:
            break
        gone.add(index)
        for rank, pair in enumerate(makers.get(index, ())):
            for part in pair:
                counts[part] += 0 if rank else count
                needed[part] -= 1
                if not needed[part] and part in free:
                    heapq.heappush(leaves, (counts[part], -part))
    return frozenset(gone)


def _makers(document: Mapping[str, Any]) -> dict[int, list[tuple[int, int]]]:
    """The pairs that merge into each id, by priority."""
    vocabulary = document["model"]["vocab"]
    makers: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for left, right in map(pair_of, document["model"]["merges"]):
        if left + right in vocabulary:
            makers[vocabulary[left + right]].append((vocabulary[left], vocabulary[right]))
    return dict(makers)
