"""How well a model predicts held-out text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.evaluation.suites.base import Candidate, ItemSuite, Scores
from adapt.settings import Count, NonNegative

if TYPE_CHECKING:
    from adapt.data.sources import Source

_DOCUMENTS_AT_ONCE = 64


class BitsPerByteSuite(ItemSuite):
    """Bits per byte on the held-out documents of a source: lower is better, comparable across vocabularies."""

    metric: ClassVar[str] = "bits_per_byte"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    kind: Literal["bits_per_byte"]
    """Predict held-out text."""

    bytes: Count = 100_000
    """How much text at most: the first held-out documents up to so many bytes of UTF-8."""

    tie: NonNegative = 0.01
    """Two models tie on a document when they differ by no more bits per byte than this."""

    def threshold(self) -> float:
        """The `tie` of the settings."""
        return self.tie

    def items(self, source: Source) -> Sequence[str]:
        """The first held-out texts up to `bytes` bytes, the last one cut on a character's border."""
        from adapt.data.sources import held_out_documents

        texts: list[str] = []
        left = self.bytes
        for document in held_out_documents(source, self.bytes):
            if "text" not in document:
                raise AdaptError(f"source '{self.source}' holds no plain text, so its bits per byte cannot be measured")
            data = document["text"].encode("utf-8", "replace")
            texts.append(data[:left].decode("utf-8", errors="ignore"))
            left -= len(data)
        if not any(texts):
            raise AdaptError(
                f"source '{self.source}' has no held-out text to measure; raise its held_out (for text that is only "
                "measured on: held_out: 100%)"
            )
        return [text for text in texts if text]

    def score(self, candidate: Candidate, items: Sequence[str], advance: Callable[[int], None]) -> Scores:
        """Bits and bytes of each document."""
        from adapt.evaluation.bits_per_byte import bits_per_byte

        bits: list[float] = []
        sizes: list[float] = []
        for start in range(0, len(items), _DOCUMENTS_AT_ONCE):
            result = bits_per_byte(
                candidate.model,
                candidate.tokenizer,
                items[start : start + _DOCUMENTS_AT_ONCE],
                window_bytes=candidate.window_bytes,
            )
            bits += result.bits.tolist()
            sizes += result.bytes.tolist()
            advance(len(bits))
        return Scores(bits, sizes)
