"""Random points, uniform in the box (Bergstra and Bengio 2012): better than a grid where few coefficients matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from adapt.merging.free import Coefficient
from adapt.merging.proposals.base import Point, Proposals


class Random(Proposals):
    """Independent uniform draws; a longer search begins with the points of a shorter one."""

    name: ClassVar[str] = "random"

    def __init__(self, coefficients: Sequence[Coefficient], trials: int, seed: int) -> None:
        super().__init__(coefficients, trials, seed)
        self._generator = np.random.default_rng(seed)

    def ask(self) -> Point | None:
        """A new draw."""
        return self.placed(self._generator.random(len(self.low)).tolist())

    def tell(self, point: Point, loss: float) -> None:
        """Nothing is learned from a loss."""
