"""CMA-ES (Hansen 2016, arXiv 1604.00772), by the library cmaes: a normal distribution that follows the good points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from adapt.errors import AdaptError
from adapt.merging.free import Coefficient
from adapt.merging.proposals.base import Point, Proposals

_SPREAD = 0.25
"""The first standard deviation, in shares of a range."""


class Cma(Proposals):
    """Searches shares of the ranges, from their middle; each generation of points moves mean and covariance."""

    name: ClassVar[str] = "cma"

    def __init__(self, coefficients: Sequence[Coefficient], trials: int, seed: int) -> None:
        super().__init__(coefficients, trials, seed)
        try:
            import cmaes
        except ImportError:
            raise AdaptError("method cma needs cmaes; install it with: pip install 'adapt[search]'") from None
        import numpy as np

        size = len(self.low)
        if size < 2:
            raise AdaptError(f"method cma needs at least 2 coefficients, there is only '{self.labels[0]}'; use grid")
        box = np.tile([0.0, 1.0], (size, 1))
        self._optimizer = cmaes.CMA(mean=np.full(size, 0.5), sigma=_SPREAD, bounds=box, seed=seed)
        self._generation: list[tuple[np.ndarray, float]] = []

    def ask(self) -> Point | None:
        """A draw of the present generation."""
        self._shares = self._optimizer.ask()
        return self.placed(self._shares.tolist())

    def tell(self, point: Point, loss: float) -> None:
        """Enter the loss; the last one of a generation moves the distribution."""
        self._generation.append((self._shares, loss))
        if len(self._generation) == self._optimizer.population_size:
            self._optimizer.tell(self._generation)
            self._generation = []
