"""A grid: evenly spaced values of every coefficient, both ends of its range among them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

from adapt.errors import AdaptError
from adapt.merging.free import Coefficient
from adapt.merging.proposals.base import Point, Proposals


class Grid(Proposals):
    """`k` values for each of n coefficients, with the largest `k` for which `k ** n` is no more than the trials."""

    name: ClassVar[str] = "grid"

    def __init__(self, coefficients: Sequence[Coefficient], trials: int, seed: int) -> None:
        super().__init__(coefficients, trials, seed)
        count, size = 1, len(coefficients)
        while (count + 1) ** size <= trials:
            count += 1
        if count < 2:
            raise AdaptError(
                f"a grid over {size} coefficients has at least {2**size} points, but trials is {trials}; give more "
                "trials or another method (random, tpe, cma)"
            )
        self.trials = count**size
        steps = [index / (count - 1) for index in range(count)]
        self._points = (self.placed(shares) for shares in product(steps, repeat=size))

    def ask(self) -> Point | None:
        """The next point of the grid; the last coefficient changes first."""
        return next(self._points, None)

    def tell(self, point: Point, loss: float) -> None:
        """Nothing is learned from a loss."""
