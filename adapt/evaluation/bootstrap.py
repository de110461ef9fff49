"""How sure a score is: percentile intervals of the bootstrap over a suite's items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLES = 2000
_CELLS = 2_000_000
"""Drawn indices that are in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def ratio_interval(
    totals: np.ndarray, weights: np.ndarray, *, seed: int = 0, samples: int = SAMPLES, level: float = 0.95
) -> Interval:
    """The ratio `sum(totals) / sum(weights)` and its percentile interval; both arrays are `[items]`.

    Items are drawn with replacement, each with its weight, `samples` times; the bounds are the quantiles
    `(1 - level) / 2` and `(1 + level) / 2` of the resampled ratios (Efron and Tibshirani 1993, chapter 13). With
    weights of 1 this is the mean, with bits and bytes it is bits per byte; with the difference of two models' totals
    on the same items it is a paired interval. Items that are all alike give an interval without width, whatever
    their number. Deterministic in the seed. Raises ValueError for no items.
    """
    totals, weights = np.asarray(totals, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if totals.shape != weights.shape or totals.ndim != 1 or not weights.sum() > 0:
        raise ValueError(f"totals {totals.shape} and weights {weights.shape} must be [items], some weight above 0")
    kept = weights > 0  # an empty document is no item
    totals, weights = totals[kept], weights[kept]
    ratios = _resampled(totals, weights, np.random.default_rng(seed), samples)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(totals.sum() / weights.sum()), float(low), float(high))


def _resampled(totals: np.ndarray, weights: np.ndarray, random: np.random.Generator, samples: int) -> np.ndarray:
    items = len(totals)
    rows = max(1, _CELLS // items)
    ratios = []
    for start in range(0, samples, rows):
        drawn = random.integers(items, size=(min(rows, samples - start), items))
        ratios.append(totals[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    return np.concatenate(ratios)
