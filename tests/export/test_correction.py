"""The error of 4 bits as a part of the adapter: the best of its rank, and whole at full rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError
from adapt.export import bases
from adapt.export.candidates import quantised_names
from adapt.export.correction import best_factors, correct
from adapt.methods.adapter import grow_for_adapter
from adapt.methods.qlora import Qlora
from tests.export.conftest import source, train
from tests.export.test_bases import weights


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 24), st.integers(2, 40), st.integers(2, 40), st.integers(0, 100))
def test_the_factors_are_the_best_of_their_rank(rank, height, width, seed):
    """Eckart and Young 1936: what is left over are the singular values behind the rank."""
    matrix = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    u, v = best_factors(matrix, rank)
    values = torch.linalg.svdvals(matrix)
    assert u.shape[1] == v.shape[0] == min(rank, height, width)
    assert torch.allclose((matrix - u @ v).norm(), values[rank:].norm(), rtol=2e-2, atol=1e-4)


def test_the_same_matrix_gives_the_same_factors():
    matrix = torch.randn(200, 150, generator=torch.Generator().manual_seed(3))
    state = torch.random.get_rng_state()
    assert torch.equal(best_factors(matrix, 8)[0], best_factors(matrix, 8)[0])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["qlora", "qlora-dora"])
def test_at_full_rank_the_corrected_sum_is_the_dequantised_one(name, stages, tmp_path):
    found = source(stages[name])
    names = quantised_names(found.live())
    numbers = correct(found, names, 64, tmp_path / "adapter")
    assert numbers["left"] < 1e-4
    assert 0.05 < numbers["error"] < 0.15
    corrected = weights(bases.original(found, None, tmp_path / "adapter"), tmp_path / "corrected")
    expected = weights(bases.dequantised(found, None, names), tmp_path / "dequantised")
    for tensor, value in expected.items():
        assert torch.allclose(corrected[tensor], value, atol=2e-6), tensor


def test_more_rank_leaves_less(stages, tmp_path):
    found = source(stages["qlora"])
    names = quantised_names(found.live())
    left = [correct(found, names, rank, tmp_path / str(rank))["left"] for rank in (2, 8, 32)]
    assert left == sorted(left, reverse=True)
    assert left[0] < 1


def test_peft_loads_the_corrected_adapter_over_the_plain_base(stages, tmp_path):
    found = source(stages["qlora"])
    names = quantised_names(found.live())
    correct(found, names, 5, tmp_path / "adapter")
    base = load_model(ModelLocation(str(found.base)), torch.float32)
    model = PeftModel.from_pretrained(grow_for_adapter(base, tmp_path / "adapter"), tmp_path / "adapter")
    assert model.peft_config["default"].r == 9
    merged = model.merge_and_unload().state_dict()
    written = weights(bases.original(found, None, tmp_path / "adapter"), tmp_path / "out")
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in written.items())


def test_layers_without_an_update_are_corrected_too(tmp_path_factory, grown, tmp_path):
    narrow = train(Qlora(r=4, targets=("q_proj",)), grown, tmp_path_factory.mktemp("narrow"))
    found = source(narrow)
    names = quantised_names(found.live())
    correct(found, names, 3, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    ranks = {name: value.shape[0] for name, value in tensors.items() if "lora_A" in name}
    assert {rank for name, rank in ranks.items() if "q_proj" in name} == {7}
    assert {rank for name, rank in ranks.items() if "q_proj" not in name} == {3}
    assert len(ranks) == len(names) == 14
    base = load_model(ModelLocation(str(found.base)), torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    written = weights(bases.original(found, None, tmp_path / "adapter"), tmp_path / "out")
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in written.items())


def test_a_plain_model_has_nothing_to_correct(tiny_model_folder, tmp_path):
    from adapt.export.source import source_of

    found = source_of("base", ModelLocation(str(tiny_model_folder)), None)
    with pytest.raises(AdaptError, match="'base' has no adapter that could be corrected"):
        correct(found, (), 4, tmp_path)
