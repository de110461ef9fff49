"""A model stored in bf16 computes in float32 on a CPU while it grows, and is written as it was stored."""

from __future__ import annotations

import pytest
import torch

import adapt
from adapt.vocabulary.number_format import in_float32, in_format


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing changes on a GPU")
def test_there_and_back_is_the_same(tiny_model_folder):
    model, _ = adapt.load_any(tiny_model_folder, torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    assert in_float32(model) == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    in_format(model, torch.bfloat16)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name


def test_a_model_in_several_formats_stays_as_it_is(tiny_model_folder):
    model, _ = adapt.load_any(tiny_model_folder, torch.bfloat16)
    model.model.norm.weight.data = model.model.norm.weight.data.float()
    formats = [parameter.dtype for parameter in model.parameters()]
    in_format(model, torch.float32)
    assert [parameter.dtype for parameter in model.parameters()] == formats
