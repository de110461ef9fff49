"""Batched greedy decoding equals one prompt at a time by hand, and stops where it must."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from adapt.errors import AdaptError
from adapt.evaluation.generation import chat_prompt, greedy, prose_prompt, stop_ids
from tests.conftest import ENGLISH, make_model, make_tokenizer

QUESTIONS = ["How do you write 12?", "45", "What is the capital of France, and what is its currency?", "Which day?"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH)


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(len(tokenizer), seed=11, initializer_range=0.3)


def by_hand(model, prompt, steps, stop=()):
    """Greedy without a cache, a batch or padding."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 80, 10_000])
def test_batches_equal_single_prompts_without_cache(model, tokenizer, batch_tokens):
    prompts = [chat_prompt(tokenizer, question, tokenizer.chat_template) for question in QUESTIONS]
    stop = stop_ids(model, tokenizer, tokenizer.chat_template)
    got = greedy(model, tokenizer, prompts, max_new_tokens=12, stop_ids=stop, batch_tokens=batch_tokens)
    expected = [by_hand(model, prompt, 12, stop) for prompt in prompts]
    assert got == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert any(got)


def test_the_models_own_generation_settings_are_set_aside_and_restored(model, tokenizer):
    prompts = [prose_prompt(tokenizer, question) for question in QUESTIONS]
    expected = greedy(model, tokenizer, prompts, max_new_tokens=8, stop_ids=[0])
    own = model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty = True, 5.0, 9.0
    state = torch.get_rng_state()
    assert greedy(model, tokenizer, prompts, max_new_tokens=8, stop_ids=[0]) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert model.generation_config is own
    own.do_sample, own.temperature, own.repetition_penalty = False, None, None


def saying(tokenizer, text: str):
    """A model that says `text` after the prompt [2]: each token leads to the next one, none stands there twice."""
    ids = [2, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert len(set(ids)) == len(ids)
    size = len(tokenizer)
    model = make_model(size, hidden_size=size)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token, following in pairwise(ids):
            model.lm_head.weight[following, token] = 1.0
    return model


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (" ab.\ncd", "ab."),
        ("\n ab<|end|>c", "ab"),
        (" ab<|endoftext|>c", "ab"),
        ("<|end|>c", ""),
    ],
)
def test_a_prose_answer_ends_at_a_newline_after_text_or_at_a_stop(tokenizer, said, expected):
    model = saying(tokenizer, said)
    stop = stop_ids(model, tokenizer, tokenizer.chat_template)
    assert (
        greedy(model, tokenizer, [[2], [2]], max_new_tokens=30, stop_ids=stop, stop_at_newline=True) == [expected] * 2
    )


def test_a_chat_answer_may_have_lines(tokenizer):
    model = saying(tokenizer, "ab\ncd<|end|>e")
    stop = stop_ids(model, tokenizer, tokenizer.chat_template)
    assert greedy(model, tokenizer, [[2]], max_new_tokens=30, stop_ids=stop) == ["ab\ncd"]


def test_stops_are_eos_and_what_ends_the_templates_turn(model, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert stop_ids(model, tokenizer, tokenizer.chat_template) == [tokenizer.eos_token_id, end]
    assert stop_ids(model, tokenizer, None) == [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = [0, 4]
    assert stop_ids(model, tokenizer, None) == [0, 4]
    model.generation_config.eos_token_id = 0


def test_prompts(tokenizer):
    chat = tokenizer.decode(chat_prompt(tokenizer, "Why?", tokenizer.chat_template))
    assert chat == "<|user|>Why?<|end|><|assistant|>"
    assert tokenizer.decode(prose_prompt(tokenizer, "Why?")) == "Why?"


def test_a_prose_prompt_begins_as_the_tokenizer_begins_and_never_ends():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(ENGLISH)
    end = ("<|endoftext|>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end[0]} $A {end[0]}", special_tokens=[end]
    )
    assert tokenizer.decode(tokenizer("Why?")["input_ids"]) == "<|endoftext|>Why?<|endoftext|>"
    assert tokenizer.decode(prose_prompt(tokenizer, "Why?")) == "<|endoftext|>Why?"


def test_a_prompt_that_does_not_fit_is_an_error(model, tokenizer):
    with pytest.raises(AdaptError, match="take 310 positions, but the model has 256"):
        greedy(model, tokenizer, [[5] * 300], max_new_tokens=10, stop_ids=[0])


def test_no_prompts_no_answers(model, tokenizer):
    assert greedy(model, tokenizer, [], max_new_tokens=10, stop_ids=[0]) == []
