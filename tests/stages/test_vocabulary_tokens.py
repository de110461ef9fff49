"""`mode: tokens`, through the stage, on real checkpoints."""

from __future__ import annotations

from transformers import AutoTokenizer

from tests.conftest import ENGLISH
from tests.stages.workshop import (
    assert_consistent,
    assert_kept_rows_are_the_same,
    vocabulary_of,
)


def test_tokens(grow, tiny_model_folder):
    wanted = ["понеділок", "Париж", " Відповідь"]
    metrics, folder, _ = grow(tiny_model_folder, mode="tokens", tokens=wanted)
    base, new = AutoTokenizer.from_pretrained(tiny_model_folder), AutoTokenizer.from_pretrained(folder / "model")
    assert_consistent(tiny_model_folder, folder)
    assert_kept_rows_are_the_same(tiny_model_folder, folder / "model", vocabulary_of(folder)["new_tokens"])
    for word in (*wanted, " понеділок", " Париж"):
        assert len(new(word)["input_ids"]) == 1, word
    for text in ENGLISH[:5]:
        assert new(text)["input_ids"] == base(text)["input_ids"]
    assert metrics["skipped"] == {}
    assert metrics["added"] - metrics["steps_only"] == 5
    assert not new.added_tokens_decoder.keys() - base.added_tokens_decoder.keys()


def test_tokens_from_a_source(grow, tiny_model_folder):
    _, folder, _ = grow(tiny_model_folder, mode="tokens", tokens="terms")
    new = AutoTokenizer.from_pretrained(folder / "model")
    assert all(len(new(word)["input_ids"]) == 1 for word in ("понеділок", "Париж", " євро"))


def test_special_tokens(grow, tiny_model_folder):
    metrics, folder, screen = grow(tiny_model_folder, mode="tokens", tokens=["<|call|>", "<|end|>"], special=True)
    base, new = AutoTokenizer.from_pretrained(tiny_model_folder), AutoTokenizer.from_pretrained(folder / "model")
    index = new.convert_tokens_to_ids("<|call|>")
    assert index == len(base)
    assert new("a<|call|>b")["input_ids"] == [*base("a")["input_ids"], index, *base("b")["input_ids"]]
    assert new.decode([index], skip_special_tokens=True) == ""
    assert metrics["added"] == 1
    assert "'<|end|>' was not added: a token already" in screen
    assert_consistent(tiny_model_folder, folder)
