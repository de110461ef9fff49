"""Loss on what the assistant writes and on the token that ends its turn, for templates as they are in the world."""

from __future__ import annotations

from importlib.resources import files

import pytest

from adapt.data.chat import ChatEncoder, sft_encoder
from adapt.data.preflight import drawn, example
from adapt.errors import AdaptError
from tests.conftest import CHAT_TEMPLATE, ENGLISH, make_tokenizer

TURNS = [
    {"role": "user", "content": "What is 12?"},
    {"role": "assistant", "content": "twelve."},
    {"role": "user", "content": "And 45?"},
    {"role": "assistant", "content": "forty-five"},
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = [
    *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
]


def trl_template(name: str) -> str:
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def base_tokenizer():
    tokenizer = make_tokenizer(ENGLISH)
    tokenizer.add_special_tokens({"bos_token": "<|begin_of_text|>", "additional_special_tokens": SPECIAL})
    return tokenizer


@pytest.fixture
def tokenizer(base_tokenizer):
    """The tokenizer with a template of one's choice; restored by the next use."""

    def with_template(template):
        base_tokenizer.chat_template = template
        return base_tokenizer

    return with_template


def picture(tokenizer, encoded) -> str:
    labels = [token if loss else -100 for token, loss in zip(encoded.ids, encoded.trained, strict=True)]
    return drawn(example({"input_ids": encoded.ids, "labels": labels}, tokenizer, limit=1000))


PICTURES = {
    "own markers": (
        CHAT_TEMPLATE,
        "<|user|>What is 12?<|end|><|assistant|>⟦twelve.<|end|>⟧<|user|>And 45?<|end|><|assistant|>⟦forty-five<|end|>⟧",
    ),
    "ChatML without markers": (
        CHATML,
        "<|im_start|>user⏎What is 12?<|im_end|>⏎<|im_start|>assistant⏎⟦twelve.<|im_end|>⟧⏎"
        "<|im_start|>user⏎And 45?<|im_end|>⏎<|im_start|>assistant⏎⟦forty-five<|im_end|>⟧⏎",
    ),
    "Llama-3, markers by TRL": (
        trl_template("llama3"),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>⏎⏎What is 12?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦twelve.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>⏎⏎And 45?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦forty-five<|eot_id|>⟧",
    ),
    "Llama-3 without markers": (
        trl_template("llama3") + "{# not as TRL knows it #}",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>⏎⏎What is 12?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦twelve.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>⏎⏎And 45?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦forty-five<|eot_id|>⟧",
    ),
    "Gemma, which has no system role": (
        trl_template("gemma") + "{# not as TRL knows it #}",
        "<|begin_of_text|><start_of_turn>user⏎What is 12?<end_of_turn>⏎<start_of_turn>model⏎⟦twelve.<end_of_turn>⟧⏎"
        "<start_of_turn>user⏎And 45?<end_of_turn>⏎<start_of_turn>model⏎⟦forty-five<end_of_turn>⟧⏎",
    ),
    "Qwen-3, which rewrites earlier turns": (
        trl_template("qwen3"),
        "<|im_start|>user⏎What is 12?<|im_end|>⏎<|im_start|>assistant⏎⟦<think>⏎⏎</think>⏎⏎twelve.<|im_end|>⏎⟧"
        "<|im_start|>user⏎And 45?<|im_end|>⏎<|im_start|>assistant⏎⟦<think>⏎⏎</think>⏎⏎forty-five<|im_end|>⏎⟧",
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_mask_of_a_conversation(tokenizer, name):
    template, expected = PICTURES[name]
    chosen = tokenizer(template)
    encoded = ChatEncoder.of(chosen).encode({"messages": TURNS})
    assert picture(chosen, encoded) == expected
    assert encoded.bytes == sum(len(turn["content"]) for turn in TURNS)


@pytest.mark.parametrize("name", ["own markers", "ChatML without markers"])
def test_prompt_and_completion_learns_the_completion_only(tokenizer, name):
    chosen = tokenizer(PICTURES[name][0])
    encoder = ChatEncoder.of(chosen)
    pair = encoder.encode({"prompt": TURNS[:3], "completion": TURNS[3:]})
    whole = encoder.encode({"messages": TURNS})
    assert pair.ids == whole.ids
    text = picture(chosen, pair)
    assert "twelve." in text.split("⟦")[0]
    assert text.count("⟦") == 1
    assert "⟦forty-five<|" in text


def test_plain_prompt_and_completion(tokenizer):
    chosen = tokenizer(None)  # needs no chat template
    encoded = sft_encoder(chosen)({"prompt": "Question: 12? Answer:", "completion": " twelve"})
    assert picture(chosen, encoded) == "Question: 12? Answer:⟦ twelve<|endoftext|>⟧"
    assert encoded.separators == 1
    assert encoded.bytes == 28


@pytest.mark.parametrize(("prompt", "completion", "joined"), [("Answer: ", "twelve", 1), ("Answer:", " twelve", 0)])
def test_a_token_that_crosses_into_the_answer_is_counted(tokenizer, prompt, completion, joined):
    assert sft_encoder(tokenizer(CHATML))({"prompt": prompt, "completion": completion}).joined == joined


def test_the_mask_does_not_depend_on_what_the_user_writes(tokenizer):
    """The assistant's words in the user's mouth carry no loss."""
    chosen = tokenizer(CHATML)
    turns = [{"role": "user", "content": "twelve. forty-five"}, {"role": "assistant", "content": "twelve."}]
    encoded = ChatEncoder.of(chosen).encode({"messages": turns})
    assert picture(chosen, encoded).endswith("assistant⏎⟦twelve.<|im_end|>⟧⏎")
    assert sum(encoded.trained) == len(chosen("twelve.")["input_ids"]) + 1


def test_a_conversation_without_an_assistant_has_no_loss(tokenizer):
    encoded = ChatEncoder.of(tokenizer(CHATML)).encode({"messages": TURNS[:1]})
    assert not any(encoded.trained)


class TestRefused:
    def test_no_template(self, tokenizer):
        with pytest.raises(AdaptError, match="has no chat template") as caught:
            ChatEncoder.of(tokenizer(None))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "template",
        [
            CHATML.replace("<|im_end|>", ""),
            CHAT_TEMPLATE.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>"),
            CHATML.replace("<|im_end|>\\n' }}{%", "' }}{% if not loop.last %}<|im_end|>{% endif %}{%"),
        ],
        ids=["no end", "end outside the markers", "last turn has no end"],
    )
    def test_an_assistant_that_would_not_learn_to_stop(self, tokenizer, template):
        with pytest.raises(AdaptError, match=r"never learn to stop|cannot be told"):
            ChatEncoder.of(tokenizer(template))

    def test_a_template_that_rewrites_earlier_turns(self, tokenizer):
        template = CHATML.replace("message['content'] +", "(message['content'] if loop.last else 'cut') +")
        with pytest.raises(AdaptError, match="renders an earlier turn differently when another one follows"):
            ChatEncoder.of(tokenizer(template))

    def test_what_the_template_refuses_itself(self, tokenizer):
        encoder = ChatEncoder.of(tokenizer(PICTURES["Gemma, which has no system role"][0]))
        system = {"role": "system", "content": "Be short."}
        with pytest.raises(AdaptError, match="chat template refuses the conversation: System role not supported"):
            encoder.encode({"messages": [system, *TURNS]})

    def test_nothing_said(self, tokenizer):
        with pytest.raises(AdaptError, match="has no messages"):
            ChatEncoder.of(tokenizer(CHATML)).encode({"messages": []})
