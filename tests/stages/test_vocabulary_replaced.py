"""`mode: replace`, through the stage, on real checkpoints."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.data.sources import Files
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN
from tests.stages.workshop import (
    assert_consistent,
    assert_kept_rows_are_the_same,
    vocabulary_of,
)


def test_replace(grow, chatty):
    metrics, folder, screen = grow(chatty, mode="replace", size=450, general="general")
    old, new = AutoTokenizer.from_pretrained(chatty), AutoTokenizer.from_pretrained(folder / "model")
    assert metrics["new_size"] == len(new) == metrics["rows"] == 450
    assert metrics["added"] + metrics["kept"] == 450
    assert metrics["kept"] + metrics["removed"] == len(old)
    assert metrics["unreachable"] == 0
    assert metrics["after"]["bytes_per_token"] > 1.5 * metrics["before"]["bytes_per_token"]
    assert "taken out: fertility" in screen
    assert_consistent(chatty, folder)
    assert_kept_rows_are_the_same(chatty, folder / "model", vocabulary_of(folder)["new_tokens"])
    assert new.special_tokens_map == old.special_tokens_map
    assert new.chat_template == CHAT_TEMPLATE
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    for text in (*UKRAINIAN[:5], *ENGLISH[:5], "汉字 و😀\n\t 12<|tool|>"):
        assert new(text)["input_ids"] == raw.encode(text).ids
        assert new.decode(new(text, add_special_tokens=False)["input_ids"]) == text


def test_replace_follows_the_ids_of_special_tokens(grow, chatty):
    _, folder, _ = grow(chatty, mode="replace", size=300)
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    begin, tool = new.convert_tokens_to_ids(["<|begin|>", "<|tool|>"])
    assert begin < 300
    assert tool < 300
    for settings in (model.config, model.generation_config):
        assert settings.bos_token_id == begin
        assert settings.eos_token_id == [0, tool]
    assert model.generation_config.pad_token_id == 1
    assert new("a")["input_ids"][0] == begin
    assert model.generate(**new("День", return_tensors="pt"), max_new_tokens=3, do_sample=False).shape[1] > 3


def test_what_a_replaced_vocabulary_keeps_has_its_old_logits(grow, tiny_model_folder, tmp_path, texts):
    """Kept tokens have their old logits among each other, under their new ids."""
    english = tmp_path / "english.txt"
    english.write_text("\n".join(ENGLISH), encoding="utf-8")
    texts["english"] = Files(files=str(english), held_out=0.2)
    old, model = (kind.from_pretrained(tiny_model_folder) for kind in (AutoTokenizer, AutoModelForCausalLM))
    metrics, folder, _ = grow(tiny_model_folder, mode="replace", size=len(old), corpus="english")
    new, after = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    text = ENGLISH[0]
    ids, moved = old(text)["input_ids"], new(text)["input_ids"]
    shared = [token for token in old.convert_ids_to_tokens(ids) if token in new.get_vocab()]
    assert metrics["kept"] > 350
    assert len(shared) > 5
    rows = [new.get_vocab()[token] for token in shared]
    with torch.inference_mode():
        expected = model(torch.tensor([old.convert_tokens_to_ids(shared)])).logits
        found = after(torch.tensor([rows])).logits
    kept = [(old.get_vocab()[token], index) for token, index in new.get_vocab().items() if token in old.get_vocab()]
    was, now = map(list, zip(*kept, strict=True))
    assert torch.equal(found[..., now], expected[..., was])
    assert new.decode(moved) == text
