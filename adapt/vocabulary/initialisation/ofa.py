"""`ofa`: a new row is made of the factorised rows of its neighbours in multilingual static vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from adapt.errors import AdaptError
from adapt.settings import Count, Positive
from adapt.vocabulary.initialisation.base import NewRows
from adapt.vocabulary.initialisation.combination import (
    Combination,
    Combining,
    Fallback,
    combined,
    neighbours,
    twins,
    with_copies,
)

if TYPE_CHECKING:
    import torch


class Ofa(Combining):
    """Neighbours in multilingual static vectors, combined in a factorised embedding space."""

    paths: ClassVar[tuple[str, ...]] = ("vectors",)

    method: Literal["ofa"] = "ofa"
    """Neighbours in multilingual static vectors, combined in a factorised embedding space."""
    vectors: str
    """Static vectors of all languages in one space: a fastText `.bin` or a `.vec` file."""
    rank: Count | None = None
    """The width of the factorised embedding, full if not given; rows are written folded, as wide as the model's."""
    neighbours: Count = 10
    """How many old tokens a new row is made of."""
    temperature: Positive = 0.1
    """Of the softmax over cosine similarities; near 0, a row is a copy of its nearest neighbour."""
    without_vector: Fallback = "gaussian"
    """How a row begins whose piece has no vector: drawn as the old rows are spread, or the mean of its pieces."""

    def files(self) -> Iterator[Path]:
        """The vectors."""
        return iter((Path(self.vectors).expanduser(),))

    def fallback_of(self) -> Fallback:
        """As the recipe says; the paper draws from a normal distribution."""
        return self.without_vector

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """Combinations of coordinates, folded: `rows = (W F) P`, so that plain transformers loads them.

        The fold is exact and costs nothing later; what the lower rank leaves out of the old rows is left out of the
        new ones. At full rank this is the mapping of `wechsel` with these vectors.
        """
        if self.rank is None:
            return super().rows(matrix, new)
        coordinates, primitives = factorised(matrix, self.rank)
        return combined(coordinates, new, self._combination(new), self.fallback_of()) @ primitives

    def combination(self, new: NewRows) -> Combination:
        """Liu et al., Findings of NAACL 2024 (arXiv 2311.08849); a piece with the text of an old one is its copy."""
        from adapt.vocabulary.vectors import load_vectors, token_vectors

        evidence = self.evidence_of(new)
        space = load_vectors(self.vectors)
        queries = token_vectors(space, new.ids, evidence.new)
        keys = token_vectors(space, new.ordinary.tolist(), evidence.old)
        found = neighbours(queries, keys, new.ordinary, self.neighbours, self.temperature)
        return with_copies(found, twins(new, evidence))


def factorised(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation `matrix ~ F P` of a rank: coordinates F `[V, rank]`, primitives P `[rank, d]`, float32.

    With `matrix = U S V^T`: `F = U_r`, `P = S_r V_r^T`. It comes from the eigenvectors of the `d x d` matrix
    `matrix^T matrix`, in float64, since V is large. Raises AdaptError for a rank above d.
    """
    import torch

    width = matrix.shape[1]
    if rank > width:
        raise AdaptError(f"init.rank is {rank}, but the embedding is only {width} wide; give at most {width}")
    gram = torch.zeros(width, width, dtype=torch.float64, device=matrix.device)
    for part in matrix.split(8192):
        gram += part.double().T @ part.double()
    values, vectors = torch.linalg.eigh(gram)
    largest = values.flip(0)[:rank].clamp_min(0).sqrt()
    kept = vectors.flip(1)[:, :rank]
    scale = torch.where(largest > largest[0] * 1e-7, 1 / largest, torch.zeros_like(largest))
    coordinates = torch.cat([(part.double() @ kept * scale).float() for part in matrix.split(8192)])
    return coordinates, (largest[:, None] * kept.T).float()
