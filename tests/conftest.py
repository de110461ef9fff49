"""Small things that many tests share: a byte-level BPE tokenizer and a two-layer Llama, made on the spot."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest

ENGLISH = [
    "The number 45 is written forty-five.",
    "On 5 March 2020 it was Thursday.",
    "The capital of France is Paris, and the currency is the euro.",
    "Question: how do you write 12 in words? Answer: twelve.",
    "A week has seven days: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
] * 8
UKRAINIAN = [
    "Число 45 пишеться сорок п'ять.",
    "5 березня 2020 року був четвер.",
    "Столиця Франції Париж, а валюта євро.",
    "Питання: як записати 12 словами? Відповідь: дванадцять.",
    "Тиждень має сім днів: понеділок, вівторок, середа, четвер, п'ятниця, субота і неділя.",
] * 8
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{% else %}{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(lines: list[str], size: int = 384):
    """A byte-level BPE tokenizer in the manner of Llama-3 and Qwen, with chat tokens and a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        additional_special_tokens=special[2:],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(vocabulary_size: int, tied: bool = False, seed: int = 0, **changes):
    """A two-layer Llama with grouped-query attention, random weights, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        tie_word_embeddings=tied,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
        **(settings | changes),
    )
    return LlamaForCausalLM(config).float().eval()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory) -> Path:
    """A checkpoint folder with an untied tiny Llama and its tokenizer; do not write to it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path) -> Callable[[str, str], Path]:
    """Write a text file below the test's folder and return its path."""

    def _write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write
