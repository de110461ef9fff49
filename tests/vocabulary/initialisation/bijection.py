"""English, and the same text letter by letter in Cyrillic: two languages whose dictionary is known exactly."""

from __future__ import annotations

import random
import string
from pathlib import Path

import torch

from adapt.vocabulary.evidence import Evidence
from adapt.vocabulary.initialisation import NewRows
from adapt.vocabulary.rows import ordinary_rows
from adapt.vocabulary.vectors import texts_of
from tests.conftest import make_model, make_tokenizer

WORDS = [
    "house",
    "river",
    "stone",
    "bread",
    "water",
    "night",
    "garden",
    "letter",
    "winter",
    "summer",
    "mother",
    "father",
    "school",
    "market",
    "window",
    "candle",
    "silver",
    "copper",
    "forest",
    "meadow",
    "bridge",
    "castle",
    "island",
    "valley",
]
_LETTERS = str.maketrans(
    string.ascii_letters,
    "".join(chr(0x430 + place) for place in range(26)) + "".join(chr(0x410 + place) for place in range(26)),
)


def translated(text: str) -> str:
    return text.translate(_LETTERS)


def sentences(count: int = 400, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["the " + " ".join(draw.sample(WORDS, 6)) + " 45." for _ in range(count)]


class Case:
    """A model of English, the tokenizer of the other language, and its whole words as the new pieces."""

    def __init__(self, tied: bool = False, texts: list[str] | None = None) -> None:
        lines = sentences()
        self.old, self.new = make_tokenizer(lines, 600), make_tokenizer([translated(line) for line in lines], 600)
        self.texts = [translated(line) for line in lines[:60]] if texts is None else texts
        self.height = max(len(self.old), len(self.new))
        self.model = make_model(self.height, tied=tied)
        self.ids = self.words_of(self.new, [translated(word) for word in WORDS])
        self.twins = self.words_of(self.old, WORDS)
        self.ordinary = ordinary_rows(self.old, self.height)

    @staticmethod
    def words_of(tokenizer, words: list[str]) -> list[int]:
        texts = texts_of(range(len(tokenizer)), tokenizer)
        return [texts.index(f" {word}") for word in words]

    def evidence(self) -> Evidence:
        return Evidence(self.model, self.old, self.new, lambda: iter(self.texts), {})

    def rows(self, side="input", ids: list[int] | None = None, seed: int = 0, tied: bool = False, **changes) -> NewRows:
        ids = self.ids if ids is None else ids
        texts = texts_of(ids, self.new)
        pieces = [tuple(self.old(text or "?", add_special_tokens=False)["input_ids"]) for text in texts]
        given = {"ordinary": self.ordinary, "evidence": self.evidence(), "height": self.height} | changes
        return NewRows(pieces, side=side, seed=seed, ids=ids, tied=tied, **given)


def write_vectors(path: Path, words: list[str], matrix: torch.Tensor) -> str:
    rows = (f"{word} {' '.join(f'{x:.6f}' for x in row)}" for word, row in zip(words, matrix.tolist(), strict=True))
    path.write_text("\n".join([f"{len(words)} {matrix.shape[1]}", *rows]) + "\n", encoding="utf-8")
    return str(path)


def random_rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
