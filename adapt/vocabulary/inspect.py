"""`adapt vocab inspect`: what a tokenizer does to a language, and what new pieces would save, before any training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adapt.errors import AdaptError
from adapt.vocabulary.coverage import coverage, token_bytes
from adapt.vocabulary.expansion import Grown, Growth, expand
from adapt.vocabulary.measures import token_counts
from adapt.vocabulary.sizing import SMALL_SAVING, WORTH, knee, tokens_after
from adapt.vocabulary.splice import core_of, spliced

SIZES = (1_000, 2_000, 4_000, 8_000, 16_000)
SHOWN = 15
"""How many missing pieces are shown."""


@dataclass(frozen=True)
class ModelSize:
    """What rows cost: the matrices' height and width, and whether input and output are one."""

    rows: int
    width: int
    tied: bool

    def parameters(self, rows: int) -> int:
        """Parameters of so many rows, input and output together."""
        return rows * self.width * (1 if self.tied else 2)


@dataclass(frozen=True)
class Expansion:
    """What the first `pieces` new pieces bring on held-out text: `saving` is the share of tokens that it takes less.

    `savings` is the same by text, `parameters` what the rows cost (None where the model's size is not known).
    """

    pieces: int
    bytes_per_token: float
    saving: float
    savings: Mapping[str, float]
    parameters: int | None


@dataclass(frozen=True)
class Missing:
    """A piece that the tokenizer lacks: how it reads, what it is cut into now, and how many tokens it would save.

    `saved` is per million tokens of held-out text as the base cuts it.
    """

    text: str
    now: Sequence[str]
    saved: float


@dataclass(frozen=True)
class Inspection:
    """All that is found.

    `vocabulary` is the number of the tokenizer's tokens, `embeddings` the parameters of the model's rows (None where
    its size is not known), `curve` `[pieces, share of the corpus's tokens saved]` from none to all that were learned.
    """

    vocabulary: int
    embeddings: int | None
    texts: Mapping[str, Mapping[str, float]]
    expansions: Sequence[Expansion]
    curve: Sequence[Sequence[float]]
    useful: Sequence[Missing]
    longest: Sequence[Missing]
    size: int
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def inspect(
    document: dict[str, Any],
    corpus: Iterable[str],
    held_out: Mapping[str, Sequence[str]],
    general: Mapping[str, Sequence[str]] | None = None,
    sizes: Sequence[int] = SIZES,
    model: ModelSize | None = None,
    name: str = "tokenizer.json",
) -> Inspection:
    """Look at a `tokenizer.json` on the held-out texts, by their names, and learn pieces on the corpus once.

    The first k pieces of a learning run are those of a run of k, so one run answers for all sizes. `general` are
    texts that are only measured. Raises AdaptError for a tokenizer that cannot grow and for texts that are empty.
    """
    general = general or {}
    for source, texts in {**held_out, **general}.items():
        if not any(text.strip() for text in texts):
            raise AdaptError(f"'{source}' holds no text to measure on; give more of it")
    target = [text for texts in held_out.values() for text in texts]
    grown = expand(document, Growth(max(sizes), drop_unused=False), corpus, target, name=name)
    expansions = _expansions(document, grown, {**held_out, **general}, list(held_out), sizes, model)
    totals = tokens_after(grown.pieces, token_counts(grown.base, target).total())
    size = knee(totals, least=min(sizes), most=max(sizes))
    useful, longest = _missing(grown, target)
    return Inspection(
        vocabulary=grown.base.get_vocab_size(with_added_tokens=True),
        embeddings=None if model is None else model.parameters(model.rows),
        texts={source: coverage(document, texts) for source, texts in {**held_out, **general}.items()},
        expansions=expansions,
        curve=_curve(totals),
        useful=useful,
        longest=longest,
        size=size,
        advice=advice(totals, size, max(sizes)),
    )


def _expansions(
    document: dict[str, Any],
    grown: Grown,
    texts: Mapping[str, Sequence[str]],
    target: Sequence[str],
    sizes: Sequence[int],
    model: ModelSize | None,
) -> list[Expansion]:
    strings = {index: piece for piece, index in grown.base.get_vocab(with_added_tokens=True).items()}
    before = {source: token_counts(grown.base, found).total() for source, found in texts.items()}
    size = sum(len(text.encode("utf-8")) for source in target for text in texts[source])
    found = []
    for pieces in sorted({min(size, len(grown.pieces)) for size in sizes}):
        core = core_of(spliced(document, grown.pieces[:pieces], strings))
        after = {source: token_counts(core, given).total() for source, given in texts.items()}
        tokens = sum(after[source] for source in target)
        found.append(
            Expansion(
                pieces=pieces,
                bytes_per_token=size / max(1, tokens),
                saving=1 - tokens / max(1, sum(before[source] for source in target)),
                savings={source: 1 - after[source] / max(1, before[source]) for source in texts},
                parameters=None if model is None else model.parameters(pieces),
            )
        )
    return found


def _curve(totals: Sequence[int], points: int = 60) -> list[list[float]]:
    learned = len(totals) - 1
    shown = sorted({round((index / points) ** 2 * learned) for index in range(points + 1)})  # dense where it is steep
    return [[pieces, 1 - totals[pieces] / max(1, totals[0])] for pieces in shown]


def _missing(grown: Grown, texts: Sequence[str]) -> tuple[list[Missing], list[Missing]]:
    """The new pieces that save most, and the longest ones, among those that the texts use; whole characters only."""
    after = token_counts(grown.tokenizer, texts)
    before = token_counts(grown.base, texts).total()
    spelled = {index: readable(content) for index, content in token_bytes(grown.document).items()}
    found = [
        Missing(text, [spelled[part] for part in parts], after[index] * (len(parts) - 1) / max(1, before) * 1e6)
        for index, parts, text in zip(grown.ids, grown.parts, grown.texts, strict=True)
        if after[index] and "\ufffd" not in text
    ]
    useful = sorted(found, key=lambda piece: -piece.saved)[:SHOWN]
    longest = sorted(found, key=lambda piece: (-len(piece.text), -piece.saved))[:SHOWN]
    return useful, longest


def readable(content: bytes) -> str:
    """A token's bytes as text, those of a part of a character as `<D0>`."""
    text = content.decode("utf-8", errors="surrogateescape")
    return "".join(f"<{ord(sign) - 0xDC00:02X}>" if "\udc80" <= sign <= "\udcff" else sign for sign in text)


def advice(totals: Sequence[int], size: int, most: int) -> str:
    """What to do, in a line: `size` pieces, or none at all.

    `totals[k]` are the tokens of held-out text with k pieces, `most` is how many pieces were asked for.
    """
    best = 1 - totals[-1] / max(1, totals[0])
    learned = len(totals) - 1
    if best < SMALL_SAVING:
        return (
            f"skip the expansion: {learned:,} pieces would save only {best:.0%} of the tokens (less than "
            f"{SMALL_SAVING:.0%}); the tokenizer knows this text already"
        )
    saved = f"{1 - totals[size] / max(1, totals[0]):.0%} of the tokens"
    if size < learned:
        return f"add {size:,} pieces: they save {saved}; twice as many would save less than {WORTH:.0%} more"
    if learned < most:
        return f"add {size:,} pieces: they save {saved}; the corpus has no more, a larger one might"
    return f"add {size:,} pieces or more: they save {saved}, and larger sizes still pay; look at them with --sizes"
