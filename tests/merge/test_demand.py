"""How many threads merge at once, and what lies in files because it is too large to be held."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.demand import TOGETHER, demand, threads_for, threads_within
from merge.errors import MergeError
from merge.planning import prepare
from merge.preflight import preflight
from merge.scratch import scratch
from tests.merge.family import make_family
from tests.merge.test_adapters import make_adapter


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@given(st.integers(0, 500), st.integers(1, 70), st.lists(st.integers(1, 100), max_size=90))
def test_any_tensors_at_once_fit_and_one_more_thread_would_not(limit, wanted, demands):
    count = threads_within(limit, wanted, demands)
    largest = sorted(demands, reverse=True)
    assert 1 <= count <= wanted
    assert count == 1 or sum(largest[:count]) <= limit
    assert count in (wanted, len(demands), 1) or sum(largest[: count + 1]) > limit


def test_blocks_bound_what_a_thread_holds_whatever_the_size_of_a_tensor(family):
    merge = prepare("ties(base, [cpt, instruct])", family.folders)
    held = {output.name: demand(merge, output) for output in merge.outputs}
    small, large = held["model.norm.weight"], held["model.embed_tokens.weight"]
    assert small < large < TOGETHER / 8
    assert threads_for(merge, merge.outputs, 3) == 3
    assert threads_for(merge, merge.outputs, 1000) <= len(merge.outputs)
    assert preflight(merge, 1)["held"] >= large
    assert preflight(prepare("0.5 * base + 0.5 * instruct", family.folders), 1)["held"] < preflight(merge, 1)["held"]


def test_factors_of_an_adapter_count(family, tmp_path):
    make_adapter(family.folders["base"], tmp_path / "lora", r=4)
    folders = {"base": family.folders["base"], "lora": tmp_path / "lora"}
    merge = prepare("base + lora", folders)
    vector = merge.adapters["lora"]
    rank = vector.adapter.config["r"]
    q = "model.layers.0.self_attn.q_proj.weight"
    assert vector.numbers(q, merge.parts[q].names) == rank * (64 + 64)
    assert vector.numbers("model.norm.weight", {"base": "model.norm.weight"}) == 0


def test_a_matrix_in_a_file_is_one_like_another():
    matrix = scratch(3, 4, torch.float32)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix.add_(2), torch.full((3, 4), 2.0))


def test_no_room_for_it(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MergeError, match="has no room for 8 MB of intermediate results: No space left on device; free"):
        scratch(1000, 1000)
