"""Merges of a very large matrix under a limit on the data that the process may hold."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.merge_memory import EXPRESSIONS, make_models, measured

ROWS, LIMIT = 64_000, 300


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder / "made", ROWS, 0)
    yield folder / "made"
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["task_arithmetic", "lora", "ties", "dare_ties", "della", "karcher", "sce"])
def test_a_large_head_needs_little_memory(models, tmp_path, method):
    """300 MB above what the import maps suffice for 1.5 GB of inputs, and so does a peak below of what is touched."""
    found = measured(EXPRESSIONS[method], models, tmp_path / "out", LIMIT, threads=2)
    assert not found["error"]
    assert 0 < found["memory"] < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "ties", "della"])
def test_many_threads_hold_no_more_than_fits(tmp_path, method):
    """64 threads are offered for 25 matrices; each would hold some 10 to 20 MB."""
    make_models(tmp_path / "made", 1024, 24)
    found = measured(EXPRESSIONS[method], tmp_path / "made", tmp_path / "out", LIMIT, threads=64)
    assert not found["error"]
    assert 0 < found["memory"] < LIMIT


@pytest.mark.slow
def test_the_limit_is_one(models, tmp_path):
    """Under a limit of 4 MB no merge ends, so the limit of the others does hold."""
    found = measured(EXPRESSIONS["ties"], models, tmp_path / "out", 4, threads=2)
    assert found["error"]
