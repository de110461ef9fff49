"""What the report says of each way to change a vocabulary."""

from __future__ import annotations

import pytest

from adapt.report.page import build
from tests.report.sample import EXPAND, write_stage

CHANGES = {
    "expand": ({}, "The vocabulary went from 2,000 to 3,000 pieces."),
    "prune": (
        {"removed": 250, "new_size": 2750},
        "The vocabulary went from 2,000 to 2,750 pieces. 1,000 were added, 250 old ones that text hardly uses taken "
        "out.",
    ),
    "auto": (
        {"auto": {"size": 1000, "reason": "the corpus has no more"}},
        "The vocabulary went from 2,000 to 3,000 pieces. The size was chosen: the corpus has no more.",
    ),
    "replace": (
        {"mode": "replace", "new_size": 1500, "kept": 500},
        "A new vocabulary of 1,500 pieces replaces the one of 2,000: 500 are in both, 1,000 are new.",
    ),
    "tokens": ({"mode": "tokens", "skipped": {"Paris": "a piece already"}}, "a piece already"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_way_is_told(tmp_path, change):
    metrics, said = CHANGES[change]
    folder = write_stage(tmp_path, "grown", "expand_vocabulary", EXPAND | {"mode": "expand"} | metrics)
    assert said in build(tmp_path, "x", {"grown": folder}).read_text(encoding="utf-8")
