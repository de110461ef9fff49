"""What a person sees before step 1."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from adapt.data.preflight import drawn, example, preflight, show
from adapt.data.sources import Files
from adapt.data.stream import build_stream
from adapt.display import Display
from adapt.errors import AdaptError
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH + UKRAINIAN)


def stream_of(path, tokenizer, cache, **changes):
    settings = {"objective": "causal_lm", "sequence_length": 64, "packing": "best_fit", "seed": 1, "tokens": 500}
    sources = {"a": Files(files=str(path), held_out=0.0)}
    return build_stream(sources, {"a": 1.0}, tokenizer, cache=cache, **(settings | changes))


def test_the_table_and_the_example_are_shown(write, tokenizer, tmp_path):
    stream = stream_of(write("a.txt", "\n".join(ENGLISH)), tokenizer, tmp_path)
    output = io.StringIO()
    show(Display(Console(file=output, width=120)), preflight(stream, tokenizer))
    text = output.getvalue()
    for word in ("source", "documents", "bytes/token", "truncated", "with loss", "epochs", "0.0%", "<|endoftext|>⟧"):
        assert word in text


def test_characters_cut_between_tokens_are_drawn_whole(tokenizer):
    ids = tokenizer("ґанок")["input_ids"]
    row = {"input_ids": ids, "labels": [-100, *ids[1:]]}
    parts = example(row, tokenizer)
    assert "".join(text for text, _ in parts) == "ґанок"
    assert "\ufffd" not in drawn(parts)


def test_drawn():
    assert drawn((("Q: ", False), ("a\nb", True), ("\n", False))) == "Q: ⟦a⏎b⟧⏎"


def test_documents_of_one_token_train_nothing(write, tokenizer, tmp_path):
    path = write("a.txt", "\n".join(["<|endoftext|>"] * 5))
    with pytest.raises(AdaptError, match="source 'a' would train nothing: none of its 5 tokens carries loss"):
        stream_of(path, tokenizer, tmp_path)


def test_prompts_that_end_in_a_space_are_pointed_at(write, tokenizer, tmp_path):
    path = write("a.jsonl", '{"prompt": "Answer: ", "completion": "twelve"}\n' * 3)
    stream = stream_of(path, tokenizer, tmp_path, objective="sft")
    output = io.StringIO()
    show(Display(Console(file=output, width=120, soft_wrap=True)), preflight(stream, tokenizer))
    assert "in 3 of 3 documents a token crosses from the prompt into the answer" in output.getvalue()
