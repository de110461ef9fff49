"""`wechsel`: a new row is made of the rows of the old tokens that mean the same, found in aligned static vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from adapt.errors import AdaptError
from adapt.settings import Count, Positive
from adapt.vocabulary.initialisation.base import NewRows
from adapt.vocabulary.initialisation.combination import Combination, Combining, Fallback, neighbours

if TYPE_CHECKING:
    import torch

    from adapt.vocabulary.evidence import Evidence
    from adapt.vocabulary.vectors import Vectors

_WORD = r"\w+"


class Wechsel(Combining):
    """Neighbours in static vectors of two languages, aligned by a bilingual dictionary."""

    paths: ClassVar[tuple[str, ...]] = ("source_vectors", "target_vectors", "dictionary")

    method: Literal["wechsel"] = "wechsel"
    """Neighbours in static vectors of two languages, aligned by a bilingual dictionary."""
    source_vectors: str
    """Static vectors of the base model's language: a fastText `.bin` or a `.vec` file."""
    target_vectors: str | None = None
    """Static vectors of the new pieces' language; trained on the corpus if none are given."""
    dictionary: str | None = None
    """A text file of word pairs, one a line, the base model's language first; not needed if the vectors are aligned."""
    neighbours: Count = 10
    """How many old tokens a new row is made of."""
    temperature: Positive = 0.1
    """Of the softmax over cosine similarities; near 0, a row is a copy of its nearest neighbour."""
    without_vector: Fallback = "gaussian"
    """How a row begins whose piece has no vector: drawn as the old rows are spread, or the mean of its pieces."""

    @field_validator("dictionary")
    @classmethod
    def _aligned(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("target_vectors") is None:
            raise ValueError("vectors trained on the corpus are aligned with nothing; give a dictionary of word pairs")
        return value

    def files(self) -> Iterator[Path]:
        """The vectors and the dictionary."""
        names = (self.source_vectors, self.target_vectors, self.dictionary)
        return (Path(name).expanduser() for name in names if name)

    def fallback_of(self) -> Fallback:
        """As the recipe says; the paper draws from a normal distribution."""
        return self.without_vector

    def combination(self, new: NewRows) -> Combination:
        """Minixhofer et al., NAACL 2022 (arXiv 2112.06598): see `neighbours` and `procrustes`."""
        from adapt.vocabulary.vectors import load_vectors, token_vectors

        evidence = self.evidence_of(new)
        pairs = read_dictionary(self.dictionary) if self.dictionary else None
        source = load_vectors(self.source_vectors)
        if self.target_vectors:
            target = load_vectors(self.target_vectors)
        else:
            target = _trained(evidence, new.seed, source.dimension)
        if source.dimension != target.dimension:
            raise AdaptError(
                f"'{source.name}' has vectors of {source.dimension} numbers and '{target.name}' of "
                f"{target.dimension}; wechsel needs two spaces of the same dimension"
            )
        queries = token_vectors(target, new.ids, evidence.new)
        keys = token_vectors(source, new.ordinary.tolist(), evidence.old)
        if pairs is not None:
            queries = queries @ alignment(source, target, pairs, str(self.dictionary))
        return neighbours(queries, keys, new.ordinary, self.neighbours, self.temperature)


def _trained(evidence: Evidence, seed: int, dimension: int) -> Vectors:
    import re

    from adapt.vocabulary.vectors import train_vectors

    return train_vectors((re.findall(_WORD, text) for text in evidence.texts), seed, dimension)


def read_dictionary(path: str) -> list[tuple[str, str]]:
    """Word pairs, source first, from lines of two words with a tab or a space between them.

    Raises AdaptError for a missing or empty file and for a line that is no pair.
    """
    from adapt.vocabulary.vectors import check_file

    pairs = []
    with check_file(path, "dictionary").open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            words = line.strip().split("\t") if "\t" in line else line.split()
            if not words:
                continue
            if len(words) != 2:
                raise AdaptError(f"{path}:{number}: '{line.strip()}' is no pair; write two words with a tab between")
            pairs.append((words[0].strip(), words[1].strip()))
    if not pairs:
        raise AdaptError(f"the dictionary '{path}' holds no word pairs")
    return pairs


def alignment(source: Vectors, target: Vectors, pairs: Sequence[tuple[str, str]], name: str) -> torch.Tensor:
    """The rotation `[d, d]` that brings target vectors to those of their translations.

    Each pair counts as it is written, in lower case and in title case, where both spaces know the words. Raises
    AdaptError where they know none.
    """
    import torch

    first = {word: row for row, word in reversed(list(enumerate(source.words)))}
    second = {word: row for row, word in reversed(list(enumerate(target.words)))}
    variants = {(a, b) for one in pairs for a, b in (one, tuple(map(str.lower, one)), tuple(map(str.title, one)))}
    known = sorted((first[a], second[b]) for a, b in variants if a in first and b in second)
    if not known:
        raise AdaptError(
            f"no pair of '{name}' has vectors in both '{source.name}' and '{target.name}'; write the base model's "
            "language first"
        )
    left, right = torch.tensor(known).T
    return procrustes(target.matrix[right], source.matrix[left])


def procrustes(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """`W = argmin ||target W - source||_F` over orthogonal W, `[d, d]` from two `[n, d]`.

    `W = U V^T` with `U S V^T = SVD(target^T source)` (Schönemann 1966). Rows are brought to length 1 first, as cosines
    are what is compared later (Xing et al. 2015).
    """
    import torch

    unit = torch.nn.functional.normalize
    left, _, right = torch.linalg.svd(unit(target.double(), dim=1).T @ unit(source.double(), dim=1))
    return (left @ right).float()
