"""Rows, biases and ids of a model after ids moved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GenerationConfig, PhiConfig

from adapt.vocabulary.row_order import arrange_rows, follow_ids, ids_in_use, padded
from tests.conftest import make_model


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 512))
def test_padded(height, multiple):
    found = padded(height, multiple)
    assert found % multiple == 0
    assert height <= found < height + multiple
    assert padded(height, None) == height


def phi():
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=20, **size)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.mark.parametrize("make", [phi, lambda: make_model(20), lambda: make_model(20, tied=True)])
def test_logits_move_with_their_rows(make):
    """Input, output and the output's bias: the logits under the new ids are the old ones of these tokens."""
    model, order = make(), [3, 1, 4, 15, 9, 2, 6]
    with torch.inference_mode():
        expected = model(torch.tensor([[9, 2, 6, 3]])).logits[..., order]
        arrange_rows(model, order, 8, torch.arange(20))
        found = model(torch.tensor([[4, 5, 6, 0]])).logits
    assert found.shape[-1] == model.config.vocab_size == 8
    torch.testing.assert_close(found[..., :7], expected)


def test_a_padding_row_never_wins():
    model = phi()
    arrange_rows(model, None, 64, torch.arange(20))
    with torch.inference_mode():
        logits = model(torch.arange(20)[None]).logits
    assert logits.shape[-1] == 64
    assert (logits[..., 20:].amax(-1) <= logits[..., :20].amax(-1)).all()
    torch.testing.assert_close(logits[..., 20], logits[..., :20].mean(-1))


def test_nothing_to_do_leaves_the_parameters_themselves():
    model = make_model(64)
    before = model.get_input_embeddings().weight
    arrange_rows(model, None, 16, torch.arange(64))
    assert model.get_input_embeddings().weight is before


def test_ids_follow_wherever_they_are_named():
    model = make_model(20)
    model.config.bos_token_id, model.config.eos_token_id = 7, [2, 9]
    model.config.pad_token_id = -1
    model.generation_config = GenerationConfig(eos_token_id=[9, 2], pad_token_id=5, suppress_tokens=[9])
    assert ids_in_use(model) == {7, 2, 9, 5, -1}
    warnings = follow_ids(model, {2: 0, 9: 1})
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (None, [0, 1], -1)
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id, settings.suppress_tokens) == ([1, 0], None, [1])
    assert warnings == [
        "bos_token_id was 7, which is no token any more",
        "pad_token_id was 5, which is no token any more",
    ]
