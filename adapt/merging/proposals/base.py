"""What a way to search is: it proposes points of a box and is told how good they were."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from adapt.merging.free import Coefficient

Point = tuple[float, ...]


class Proposals(ABC):
    """Base of all ways to search; `low` and `high` `[n]` are the ends of the n coefficients' ranges.

    `trials` is how many points there will be.

    The same seed and the same losses give the same points, so a search that was stopped is gone on with by telling the
    losses that are known.
    """

    name: ClassVar[str]

    def __init__(self, coefficients: Sequence[Coefficient], trials: int, seed: int) -> None:
        self.labels = [coefficient.label for coefficient in coefficients]
        self.low = [coefficient.low for coefficient in coefficients]
        self.high = [coefficient.high for coefficient in coefficients]
        self.trials, self.seed = trials, seed

    @abstractmethod
    def ask(self) -> Point | None:
        """The next point, or None where there is no other."""

    @abstractmethod
    def tell(self, point: Point, loss: float) -> None:
        """How good the point was that was asked for last; less is better."""

    def placed(self, shares: Sequence[float]) -> Point:
        """Shares of each range (0 its low end, 1 its high end) as a point."""
        return tuple(low + share * (high - low) for low, high, share in zip(self.low, self.high, shares, strict=True))
