"""Scores with intervals, each model against its own base, and what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapt.evaluation.bootstrap import ratio_interval
from adapt.evaluation.suites.base import ItemSuite, Scores


def summarise(suite: ItemSuite, scores: Scores, seed: int) -> dict[str, Any]:
    """The score with its 95% interval over items, the number of items, and how the model was asked."""
    interval = ratio_interval(np.array(scores.totals), np.array(scores.weights), seed=seed)
    result = {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(scores.totals)}
    return result | {"metric": suite.metric, "better": suite.better} | ({"form": scores.form} if scores.form else {})


def compare(suite: ItemSuite, own: Scores, base: Scores, seed: int) -> dict[str, Any]:
    """A model against its base on the same items: won, tied and lost items, and the paired difference.

    `difference` is the model's score less the base's (for bits per byte, lower is better, a gain is negative), with
    its 95% interval over items.
    """
    if own.weights != base.weights:
        raise ValueError(f"the two models were not scored on the same {len(own.weights)} items")
    weights = np.array(own.weights)
    totals = np.array(own.totals) - np.array(base.totals)
    gains = totals / weights * (1 if suite.better == "higher" else -1)
    interval = ratio_interval(totals, weights, seed=seed)
    return {
        "win": int((gains > suite.threshold()).sum()),
        "tie": int((np.abs(gains) <= suite.threshold()).sum()),
        "loss": int((gains < -suite.threshold()).sum()),
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def forgetting(own: Mapping[str, Any], base: Mapping[str, Any], compared: Mapping[str, Any]) -> dict[str, float]:
    """The rise of bits per byte on general text over the own base: absolute with its interval, and in percent.

    Above 0, the model has forgotten. The arguments are `summarise` of both and `compare` of the general suite.
    """
    return {
        "before": base["value"],
        "after": own["value"],
        "change": compared["difference"],
        "low": compared["low"],
        "high": compared["high"],
        "percent": 100 * compared["difference"] / base["value"],
    }
