"""`prune`, padding and `add: auto`, through the stage, on real checkpoints."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ENGLISH, UKRAINIAN, make_model
from tests.stages.workshop import (
    MATRICES,
    assert_consistent,
    assert_kept_rows_are_the_same,
    vocabulary_of,
)


def test_prune_unused(grow, chatty):
    """English pieces that the Ukrainian corpus never uses go; what is left cuts text as before."""
    metrics, folder, screen = grow(chatty, add=30, prune="unused")
    assert metrics["removed"] > 50
    assert f"{metrics['removed']} taken out" in screen
    assert metrics["rows"] == metrics["new_size"] == metrics["base_size"] + 30 - metrics["removed"]
    assert metrics["step0"]["target"]["after"] > 0
    assert_consistent(chatty, folder)
    assert_kept_rows_are_the_same(chatty, folder / "model", vocabulary_of(folder)["new_tokens"])
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert model.generation_config.eos_token_id == new.convert_tokens_to_ids(["<|endoftext|>", "<|tool|>"])
    whole = grow(chatty, add=30)[1]
    unpruned = AutoTokenizer.from_pretrained(whole / "model")
    for text in UKRAINIAN[:5]:
        assert new.convert_ids_to_tokens(new(text)["input_ids"]) == unpruned.convert_ids_to_tokens(
            unpruned(text)["input_ids"]
        )
    for text in ENGLISH[:5]:
        assert new.decode(new(text)["input_ids"], skip_special_tokens=True) == text


def test_pruned_text_has_the_logits_it_had(grow, chatty):
    _, folder, _ = grow(chatty, add=30, prune="unused")
    pruned, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    kept = vocabulary_of(folder)["old_ids"]
    ids = tokenizer(UKRAINIAN[0])["input_ids"]
    shutil.rmtree(folder / "model")
    _, folder, _ = grow(chatty, add=30)
    whole, before = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    same = before(UKRAINIAN[0])["input_ids"]
    new = iter(vocabulary_of(folder)["new_ids"])
    rows = [next(new) if former is None else former for former in kept]
    assert [rows[index] for index in ids] == same
    with torch.inference_mode():
        found, expected = (model(torch.tensor([row])).logits for model, row in ((pruned, ids), (whole, same)))
    assert torch.equal(found, expected[..., rows])


@pytest.mark.parametrize(("amount", "removed"), [(7, 7), (0.05, 19)])
def test_prune_by_number_and_share(grow, tiny_model_folder, amount, removed):
    metrics, folder, _ = grow(tiny_model_folder, add=10, prune=amount)
    assert metrics["removed"] == removed
    assert_consistent(tiny_model_folder, folder)


def test_padding(grow, tiny_model_folder):
    base = AutoTokenizer.from_pretrained(tiny_model_folder)
    metrics, folder, _ = grow(tiny_model_folder, add=10, pad_to_multiple_of=64)
    used = len(base) + 10
    assert metrics["rows"] == 448 > used
    weights = load_file(folder / "model" / "model.safetensors")
    old = load_file(tiny_model_folder / "model.safetensors")
    ordinary = [index for token, index in base.get_vocab().items() if index not in base.added_tokens_decoder]
    for name in MATRICES:
        assert torch.equal(weights[name][: len(base)], old[name])
        for row in weights[name][used:]:
            torch.testing.assert_close(row, old[name][ordinary].mean(0))
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.vocab_size == 448


def test_a_tied_model_is_pruned_and_padded(grow, tmp_path, tiny_model_folder):
    source = tmp_path / "tied"
    shutil.copytree(tiny_model_folder, source)
    make_model(len(AutoTokenizer.from_pretrained(source)) + 10, tied=True).to(torch.bfloat16).save_pretrained(source)
    metrics, folder, _ = grow(source, add=5, prune="unused", pad_to_multiple_of=8)
    assert metrics["rows"] % 8 == 0
    weights = load_file(folder / "model" / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert_kept_rows_are_the_same(source, folder / "model", vocabulary_of(folder)["new_tokens"])


def test_the_size_chosen_by_itself(grow, tiny_model_folder):
    metrics, folder, screen = grow(tiny_model_folder, add="auto")
    assert metrics["auto"]["size"] == metrics["added"]
    assert metrics["auto"]["reason"] == "the corpus has no more"
    assert f"{metrics['added']} pieces chosen: the corpus has no more" in screen
    assert_consistent(tiny_model_folder, folder)
