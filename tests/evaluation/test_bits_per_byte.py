"""Bits per byte against an independent reference, and what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.evaluation.bits_per_byte import bits_per_byte, byte_windows, first_token, window_for
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer

TEXTS = [*ENGLISH[:4], "", *UKRAINIAN[:4], " ".join(ENGLISH[:5]), "x"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH)


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(len(tokenizer), seed=3)


def reference(model, tokenizer, text: str, size: int) -> float:
    """One window at a time, one token at a time, log-softmax in float64."""
    bits, data, start = 0.0, text.encode(), 0
    while start < len(data):
        piece = data[start : start + size].decode(errors="ignore")
        ids = [tokenizer.eos_token_id, *tokenizer.encode(piece, add_special_tokens=False)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for position, token in enumerate(ids[1:]):
            bits -= float(logits[position].log_softmax(-1)[token]) / math.log(2)
        start += len(piece.encode())
    return bits


def test_equals_the_reference_document_by_document(model, tokenizer):
    result = bits_per_byte(model, tokenizer, TEXTS, window_bytes=50)
    expected = [reference(model, tokenizer, text, 50) for text in TEXTS]
    np.testing.assert_allclose(result.bits, expected, rtol=1e-5)
    assert result.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert result.value == pytest.approx(sum(expected) / sum(len(text.encode()) for text in TEXTS), rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 64, 300, 100_000])
def test_batches_and_padding_change_nothing(model, tokenizer, batch_tokens):
    expected = bits_per_byte(model, tokenizer, TEXTS)
    got = bits_per_byte(model, tokenizer, TEXTS, batch_tokens=batch_tokens)
    np.testing.assert_allclose(got.bits, expected.bits, rtol=1e-5)


def test_order_of_documents_changes_nothing(model, tokenizer):
    forward = bits_per_byte(model, tokenizer, TEXTS)
    backward = bits_per_byte(model, tokenizer, TEXTS[::-1])
    np.testing.assert_allclose(backward.bits[::-1], forward.bits, rtol=1e-5)


def test_uniform_model_over_bytes_needs_the_logarithm_of_its_vocabulary():
    tokenizer = make_tokenizer([""], size=0)  # special tokens and the 256 bytes, no merges
    model = make_model(len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    result = bits_per_byte(model, tokenizer, TEXTS)
    assert result.value == pytest.approx(math.log2(len(tokenizer)), rel=1e-6)


def test_bytes_and_windows_are_the_same_for_every_tokenizer(model, tokenizer):
    other = make_tokenizer(UKRAINIAN, size=500)
    there = bits_per_byte(make_model(len(other)), other, TEXTS, window_bytes=64)
    here = bits_per_byte(model, tokenizer, TEXTS, window_bytes=64)
    assert there.bytes.tolist() == here.bytes.tolist()


def test_leaves_no_trace(model, tokenizer):
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    bits_per_byte(model, tokenizer, TEXTS)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()


def test_dropout_is_off_while_a_model_trains(tokenizer):
    model = make_model(len(tokenizer), attention_dropout=0.5)
    expected = bits_per_byte(model, tokenizer, TEXTS).bits
    np.testing.assert_array_equal(bits_per_byte(model.train(), tokenizer, TEXTS).bits, expected)


def test_peft_model_that_is_still_the_identity_equals_its_base(tokenizer):
    from peft import LoraConfig, get_peft_model

    model = make_model(len(tokenizer), seed=5)
    expected = bits_per_byte(model, tokenizer, TEXTS).bits
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    np.testing.assert_allclose(bits_per_byte(adapted, tokenizer, TEXTS).bits, expected, rtol=1e-6)


def test_quantised_model(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model(len(tokenizer), seed=5).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32)
    result = bits_per_byte(model, tokenizer, TEXTS, window_bytes=50)
    np.testing.assert_allclose(result.bits, [reference(model, tokenizer, text, 50) for text in TEXTS], rtol=1e-4)


def test_first_token_is_bos_else_eos(tokenizer):
    assert first_token(tokenizer) == tokenizer.eos_token_id
    other = make_tokenizer(ENGLISH)
    other.bos_token = "<|system|>"
    assert first_token(other) == other.convert_tokens_to_ids("<|system|>")
    other.bos_token = other.eos_token = None
    with pytest.raises(AdaptError, match="neither a bos nor an eos"):
        first_token(other)


def test_half_of_a_surrogate_pair_counts_as_one_byte(model, tokenizer):
    assert bits_per_byte(model, tokenizer, ["a\ud800b"]).bits == bits_per_byte(model, tokenizer, ["a?b"]).bits


def test_nothing_to_predict_is_an_error(model, tokenizer):
    with pytest.raises(AdaptError, match="2 documents hold no text"):
        bits_per_byte(model, tokenizer, ["", ""])


def test_window_that_does_not_fit_is_an_error_with_the_size_that_does(model, tokenizer):
    text = UKRAINIAN[0] * 40
    with pytest.raises(AdaptError, match=r"window of 2000 bytes takes \d+ tokens, but the model has 256"):
        bits_per_byte(model, tokenizer, [text], window_bytes=2000)
    assert bits_per_byte(model, tokenizer, [text]).total_bytes == len(text.encode())
    assert window_for(256) == 255
    assert window_for(None) == window_for(100_000) == 1024


@given(st.text(), st.integers(4, 40))
def test_windows_hold_every_byte_once_and_whole_characters(text, size):
    windows = list(byte_windows(text, size))
    assert b"".join(windows) == text.encode()
    assert all(0 < len(window) <= size for window in windows)
    assert "".join(window.decode() for window in windows) == text
    assert all(len(window) > size - 4 for window in windows[:-1])
