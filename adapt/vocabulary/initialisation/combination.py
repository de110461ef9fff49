"""New rows as weighted sums of old ones: what the methods that find neighbours have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from adapt.vocabulary.initialisation.base import (
    Initialisation,
    NewRows,
    Side,
    evidence_for,
    random_for,
    weighted_rows,
)

if TYPE_CHECKING:
    import torch

    from adapt.vocabulary.evidence import Evidence

Fallback = Literal["gaussian", "mean_of_pieces"]
Made = TypeVar("Made")

_CELLS = 2**25
"""Numbers of a matrix of similarities that are held at once; memory is bounded, the result does not depend on it."""


@dataclass(frozen=True)
class Combination:
    """For each new row the old ids that it is made of and their weights; both empty where the method found none.

    `copied` counts the rows that are one old row, because both stand for the same text.
    """

    ids: Sequence[Sequence[int]]
    weights: Sequence[torch.Tensor]
    copied: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The places of new rows that the method found nothing for."""
        return [place for place, ids in enumerate(self.ids) if not len(ids)]

    def report(self) -> dict[str, float]:
        """Counts for the stage's metrics."""
        missing = len(self.missing)
        found = len(self.ids) - missing - self.copied
        return {"found": found, "copied": self.copied, "fallback": missing} | dict(self.extra)


class Combining(Initialisation, ABC):
    """Base of methods that write a new row as a weighted sum of old rows."""

    sided: ClassVar[bool] = False
    """Whether the weights of the two sides differ; where they do not, they are made once."""

    @abstractmethod
    def combination(self, new: NewRows) -> Combination:
        """Which old rows, with which weights."""

    def rows(self, matrix: torch.Tensor, new: NewRows) -> torch.Tensor:
        """The weighted sums; a new piece that nothing was found for begins as `fallback_of` says."""
        return combined(matrix, new, self._combination(new), self.fallback_of())

    def fallback_of(self) -> Fallback:
        """How a row begins that the method found nothing for."""
        return "mean_of_pieces"

    def refine(self, sides: Mapping[Side, NewRows]) -> dict[str, Any]:
        """Change nothing; report how many rows the method found, copied, and left to the fallback."""
        found: dict[str, Any] = {}
        for side, new in sides.items():
            combination, name = self._combination(new), "tied" if new.tied else side
            found[f"{name}_coverage"] = combination.report()
            missing = len(combination.missing)
            if missing:
                found.setdefault("notes", []).append(
                    f"{self.name}: nothing found for {missing} of {len(new.ids)} new pieces ({name}), "
                    f"their rows begin as {self.fallback_of()}"
                )
        return found

    @property
    def name(self) -> str:
        """The method's name."""
        return str(getattr(self, "method", ""))

    def _combination(self, new: NewRows) -> Combination:
        side = new.side if self.sided else None
        return kept(self.evidence_of(new), (self, side, tuple(new.ids), new.seed), lambda: self.combination(new))

    def evidence_of(self, new: NewRows) -> Evidence:
        """The model and text. Raises AdaptError where there are none."""
        return evidence_for(new, self.name)


def kept(evidence: Evidence, key: Any, make: Callable[[], Made]) -> Made:
    """`make()`, once for each key and evidence: the output side uses what the input side has computed."""
    store = vars(evidence).setdefault("_kept", {})
    if key not in store:
        store[key] = make()
    return store[key]


def combined(
    matrix: torch.Tensor, new: NewRows, combination: Combination, fallback: Fallback = "mean_of_pieces"
) -> torch.Tensor:
    """`row_i = sum_j weights[i][j] * matrix[ids[i][j]]`, float32 `[k, d]` from `[V, d]`.

    A row without ids is the mean of its pieces' rows, or with `gaussian` drawn from N(mean, std) of the ordinary rows
    by dimension, as in WECHSEL, FOCUS and OFA; the draw depends on the seed, the side and the row's place only.
    """
    import torch

    missing = combination.missing
    if not combination.ids:
        return matrix.new_zeros((0, matrix.shape[1]), dtype=torch.float32)
    ids, weights = list(combination.ids), list(combination.weights)
    for place in missing:
        ids[place] = new.pieces[place]
        weights[place] = torch.full((len(new.pieces[place]),), 1 / max(1, len(new.pieces[place])))
    rows = weighted_rows(matrix, ids, weights)
    if missing and fallback == "gaussian":
        rows[missing] = _gaussian(matrix, new, len(ids))[missing].to(rows.device)
    return rows


def _gaussian(matrix: torch.Tensor, new: NewRows, count: int) -> torch.Tensor:
    import torch

    ordinary = matrix[new.ordinary].float().cpu()
    noise = torch.from_numpy(random_for(new).standard_normal((count, matrix.shape[1]), dtype="float32"))
    return ordinary.mean(0) + ordinary.std(0) * noise


def accelerator() -> torch.device:
    """The GPU where there is one, for methods that would take hours without."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def similarities(queries: torch.Tensor, keys: torch.Tensor) -> list[torch.Tensor]:
    """Lazily, cosine similarities `[chunk, n]` of some rows of `queries` `[k, d]` at a time to `keys` `[n, d]`."""
    import torch

    unit = torch.nn.functional.normalize(keys.float(), dim=1).T
    size = max(1, _CELLS // max(1, len(keys)))
    return (torch.nn.functional.normalize(part.float(), dim=1) @ unit for part in queries.split(size))  # type: ignore[return-value]


def neighbours(
    queries: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor, count: int, temperature: float
) -> Combination:
    """`w = softmax(cos / temperature)` over the `count` nearest keys (WECHSEL, OFA).

    `queries` `[k, d]`, `keys` `[n, d]` with their old `ids` `[n]`. The weights are positive and sum to 1; with one
    neighbour a row is a copy of the nearest. A zero query gets nothing; zero keys are not neighbours.
    """
    import torch

    known = keys.abs().sum(1) > 0
    keys, ids = keys[known], ids[known]
    empty = (queries.abs().sum(1) == 0).tolist()
    if not len(keys):
        empty = [True] * len(queries)
    found: list[Sequence[int]] = []
    weights: list[torch.Tensor] = []
    for cosines in similarities(queries, keys):
        values, places = cosines.topk(min(count, len(keys)), dim=1)
        found += ids[places].tolist()
        weights += list(torch.softmax(values / temperature, dim=1))
    none = torch.zeros(0)
    return Combination(
        [() if skip else one for skip, one in zip(empty, found, strict=True)],
        [none if skip else one for skip, one in zip(empty, weights, strict=True)],
    )


def with_copies(combination: Combination, twins: Mapping[int, int]) -> Combination:
    """The same, where the rows in `twins` (place of a new row to old id) are copies of that old row."""
    import torch

    ids = [(twins[place],) if place in twins else one for place, one in enumerate(combination.ids)]
    weights = [torch.ones(1) if place in twins else one for place, one in enumerate(combination.weights)]
    return Combination(ids, weights, len(twins), combination.extra)


def twins(new: NewRows, evidence: Evidence) -> dict[int, int]:
    """The new rows (by place) whose text is that of an ordinary old token, with its id.

    Tokens are compared by the text they stand for, so `Ġthe` and `▁the` are the same. Parts of characters are not
    compared.
    """
    from adapt.vocabulary.vectors import texts_of

    old = new.ordinary.tolist()
    known = dict(zip(texts_of(old, evidence.old), old, strict=True))
    texts = enumerate(texts_of(new.ids, evidence.new))
    return {place: known[text] for place, text in texts if text and text in known}
