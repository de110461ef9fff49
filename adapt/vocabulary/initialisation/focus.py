"""`focus`: a new row is made of the rows of old pieces that are used alike in the corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.settings import Count
from adapt.vocabulary.initialisation.base import NewRows
from adapt.vocabulary.initialisation.combination import (
    Combination,
    Combining,
    Fallback,
    similarities,
    twins,
    with_copies,
)

if TYPE_CHECKING:
    import torch

    from adapt.vocabulary.evidence import Evidence


class Focus(Combining):
    """Neighbours among the old pieces of the corpus, in static vectors trained on its new segmentation."""

    paths: ClassVar[tuple[str, ...]] = ("vectors",)

    method: Literal["focus"] = "focus"
    """Neighbours among the old pieces of the corpus, in static vectors trained on its new segmentation."""
    vectors: str | None = None
    """Static vectors to look in: a fastText `.bin` or a `.vec` file; trained on the corpus if none are given."""
    dimension: Count = 100
    """The width of the vectors that are trained."""
    epochs: Count = 3
    """Passes of the training over the corpus."""
    min_count: Count = 5
    """The fewest times that a piece must occur in the corpus to have a vector; 10 in the paper."""
    without_vector: Fallback = "gaussian"
    """How a row begins whose piece has no vector: drawn as the old rows are spread, or the mean of its pieces."""

    def files(self) -> Iterator[Path]:
        """The vectors, where they are given."""
        return iter((Path(self.vectors).expanduser(),) if self.vectors else ())

    def fallback_of(self) -> Fallback:
        """As the recipe says; the paper draws from a normal distribution."""
        return self.without_vector

    def combination(self, new: NewRows) -> Combination:
        """`w = sparsemax(cos(v_t, v_O))` over the old pieces O that have a vector; the same text is copied.

        Dobler and de Melo, EMNLP 2023 (arXiv 2305.14481).
        """
        import torch

        evidence = self.evidence_of(new)
        queries, keys = self._spaces(new, evidence)
        known = keys.abs().sum(1) > 0
        if not known.any():
            raise AdaptError(
                f"focus finds no old piece with a vector in {self.vectors or 'the corpus'} to make new rows of; "
                "give more text or a lower min_count"
            )
        ids, weights = [], []
        seen = new.ordinary[known]
        for cosines in similarities(queries, keys[known]):
            for row in sparsemax(cosines):
                support = row.nonzero().flatten()
                ids.append(seen[support].tolist())
                weights.append(row[support].float())
        for place in (queries.abs().sum(1) == 0).nonzero().flatten().tolist():
            ids[place], weights[place] = (), torch.zeros(0)
        return with_copies(Combination(ids, weights), twins(new, evidence))

    def _spaces(self, new: NewRows, evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors `[k, d]` of the new pieces and `[n, d]` of the ordinary old ones, zero where there are none."""
        from adapt.vocabulary.vectors import load_vectors, token_vectors

        old = new.ordinary.tolist()
        if self.vectors:
            space = load_vectors(self.vectors)
            return token_vectors(space, new.ids, evidence.new), token_vectors(space, old, evidence.old)
        return self._trained(evidence, new.ids, new.seed), self._trained(evidence, old, new.seed)

    def _trained(self, evidence: Evidence, ids: Sequence[int], seed: int) -> torch.Tensor:
        import torch

        from adapt.vocabulary.initialisation.combination import kept
        from adapt.vocabulary.vectors import train_vectors

        names = kept(evidence, "names", lambda: _names(evidence))

        def train() -> torch.Tensor:
            sentences = ([names[index] for index in ids] for ids in evidence.new_ids)
            trained = train_vectors(sentences, seed, self.dimension, self.epochs, self.min_count)
            place = {word: row for row, word in enumerate(trained.words)}
            rows = torch.tensor([place.get(name, len(place)) for name in names])
            return torch.cat([trained.matrix, torch.zeros(1, trained.dimension)])[rows]

        return kept(evidence, (self, "space", seed), train)[torch.tensor(list(ids), dtype=torch.long)]


def _names(evidence: Evidence) -> list[str]:
    """What each id of the new tokenizer is called in the trained space: its text, so that n-grams are characters.

    Parts of characters keep their token's string; a space is written as `▁`, words of gensim's may not hold one.
    """
    from adapt.vocabulary.vectors import texts_of

    ids = range(evidence.model.get_input_embeddings().weight.shape[0])
    tokens = evidence.new.convert_ids_to_tokens(list(ids))
    texts = texts_of(ids, evidence.new)
    return [text.replace(" ", "▁") or f"{token}" for text, token in zip(texts, tokens, strict=True)]


def sparsemax(scores: torch.Tensor) -> torch.Tensor:
    """The projection of each row onto the simplex, float64 `[.., n]`: most weights are exactly 0.

    `p = max(z - tau, 0)`, `tau = (sum_{j<=k} z_(j) - 1) / k` with the largest k for which
    `1 + k z_(k) > sum_{j<=k} z_(j)`, z sorted downwards (Martins and Astudillo, ICML 2016).
    """
    import torch

    z = scores.double()
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1)
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    size = (1 + rank * ordered > sums).sum(-1, keepdim=True)
    tau = (sums.gather(-1, size - 1) - 1) / size
    return (z - tau).clamp_min(0)
