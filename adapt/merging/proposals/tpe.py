"""Tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"), by optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from adapt.errors import AdaptError
from adapt.merging.free import Coefficient
from adapt.merging.proposals.base import Point, Proposals


class Tpe(Proposals):
    """Draws from where the good points lie densely and the bad ones do not; the first 2 n + 2 points are random."""

    name: ClassVar[str] = "tpe"

    def __init__(self, coefficients: Sequence[Coefficient], trials: int, seed: int) -> None:
        super().__init__(coefficients, trials, seed)
        try:
            import optuna
        except ImportError:
            raise AdaptError("method tpe needs optuna; install it with: pip install 'adapt[search]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * len(self.low) + 2)
        self._study = optuna.create_study(direction="minimize", sampler=sampler)
        self._ranges = {
            label: optuna.distributions.FloatDistribution(low, high)
            for label, low, high in zip(self.labels, self.low, self.high, strict=True)
        }

    def ask(self) -> Point | None:
        """The estimator's next point."""
        self._trial = self._study.ask(self._ranges)
        return tuple(self._trial.params[label] for label in self.labels)

    def tell(self, point: Point, loss: float) -> None:
        """Enter the loss."""
        self._study.tell(self._trial, loss)
