"""A model with a method on it, for a training loop of one's own."""

from __future__ import annotations

import pytest
import torch

import adapt


@pytest.mark.parametrize("method", ["full", "half", {"kind": "lora", "r": 4}, {"kind": "qlora", "r": 4}], ids=str)
def test_what_trains_gets_a_gradient_and_nothing_else(tiny_model_folder, method):
    model, tokenizer = adapt.load_for_training(str(tiny_model_folder), method, precision="fp32")
    ids = torch.tensor([tokenizer("The number 45 is written forty-five.")["input_ids"]])
    model(input_ids=ids, labels=ids).loss.backward()
    training = [weight for weight in model.parameters() if weight.requires_grad]
    assert training
    assert all(weight.grad is not None for weight in training)
    assert all(weight.grad is None for weight in model.parameters() if not weight.requires_grad)


def test_an_adapter_begins_as_the_identity(tiny_model_folder):
    plain, tokenizer = adapt.load_any(tiny_model_folder, torch.float32)
    model, _ = adapt.load_for_training(str(tiny_model_folder), {"kind": "lora", "r": 4}, precision="fp32")
    ids = torch.tensor([tokenizer("Paris")["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(model.eval()(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("loraa", "the method's kind is 'loraa'; give one of full, half, "),
        ({"r": 4}, "the method's kind is None; give one of full, half, "),
        ({"kind": "lora", "rank": 4}, "method lora: rank is 4: Extra inputs are not permitted"),
        ({"kind": "half", "ratio": 1, "frozen": "nf4"}, "method half: frozen: nothing is frozen at ratio 1; lower"),
    ],
    ids=str,
)
def test_a_method_that_is_none(tiny_model_folder, method, message):
    with pytest.raises(adapt.AdaptError) as error:
        adapt.load_for_training(str(tiny_model_folder), method)
    assert str(error.value).startswith(message)
