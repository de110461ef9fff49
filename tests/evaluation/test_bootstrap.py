"""Intervals against the closed form, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from adapt.evaluation.bootstrap import ratio_interval


def test_mean_of_many_items_has_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=1500)
    interval = ratio_interval(values, np.ones(1500))
    half = 1.96 * values.std() / np.sqrt(1500)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_ratio_of_sums_has_the_interval_of_the_delta_method():
    random = np.random.default_rng(1)
    weights = random.integers(20, 400, size=800).astype(float)
    totals = weights * random.normal(1.5, 0.3, size=800)
    interval = ratio_interval(totals, weights)
    ratio = totals.sum() / weights.sum()
    half = 1.96 * np.sqrt(((totals - ratio * weights) ** 2).sum()) / weights.sum()
    assert interval.value == pytest.approx(ratio)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.08)


def test_covers_the_true_share_in_about_95_of_100_draws():
    random = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        interval = ratio_interval((random.random(150) < 0.6).astype(float), np.ones(150), seed=seed, samples=500)
        covered += interval.low <= 0.6 <= interval.high
    assert 180 <= covered <= 198


def test_deterministic_in_the_seed_and_blind_to_the_size_of_chunks(monkeypatch):
    values, ones = np.random.default_rng(3).random(70), np.ones(70)
    assert ratio_interval(values, ones, seed=5) == ratio_interval(values, ones, seed=5)
    assert ratio_interval(values, ones, seed=5) != ratio_interval(values, ones, seed=6)
    whole = ratio_interval(values, ones, seed=5)
    monkeypatch.setattr("adapt.evaluation.bootstrap._CELLS", 7 * 70)
    assert ratio_interval(values, ones, seed=5) == whole


def test_scale_and_shift_of_the_items_scale_and_shift_the_interval():
    values, ones = np.random.default_rng(4).random(50), np.ones(50)
    plain, moved = ratio_interval(values, ones), ratio_interval(3 * values - 1, ones)
    assert moved.low == pytest.approx(3 * plain.low - 1)
    assert moved.high == pytest.approx(3 * plain.high - 1)


def test_one_item_and_equal_items_have_no_width():
    assert ratio_interval(np.array([2.0]), np.array([4.0])).low == 0.5
    interval = ratio_interval(np.zeros(30), np.ones(30))
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_empty_documents_are_no_items():
    interval = ratio_interval(np.array([1.0, 0.0, 3.0]), np.array([1.0, 0.0, 1.0]))
    assert interval.value == 2.0


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="some weight above 0"):
        ratio_interval(np.zeros(0), np.zeros(0))
