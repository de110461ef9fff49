"""A conversation with a real small model: the same answer as plain generation, whole characters, stop tokens."""

from __future__ import annotations

import json

import pytest
import torch

from adapt.chat.answer import Pieces, Sampling
from adapt.chat.console import NO_TEMPLATE, talk
from adapt.chat.conversation import Conversation
from adapt.errors import AdaptError
from tests.conftest import ENGLISH, make_model, make_tokenizer

GREEDY = Sampling(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH)


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(len(tokenizer), initializer_range=0.3)


def lines(*given: str):
    waiting = iter(given)

    def read() -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return read


def test_the_answer_is_that_of_plain_generation_and_comes_in_pieces(model, tokenizer):
    conversation, said = Conversation(model, tokenizer, GREEDY), []
    answer = conversation.reply("How do you write 12?", said.append)
    turns = [{"role": "user", "content": "How do you write 12?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    plain = model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=[0, 5])
    new = plain[0, ids["input_ids"].shape[1] :]
    assert answer == tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd").strip()
    assert "".join(said).strip() == answer
    assert conversation.messages == [*turns, {"role": "assistant", "content": answer}]


def test_the_second_answer_sees_the_first_turn(model, tokenizer):
    conversation = Conversation(model, tokenizer, GREEDY)
    conversation.reply("one", lambda text: None)
    seen = conversation._ids([*conversation.messages, {"role": "user", "content": "two"}])
    assert "one" in tokenizer.decode(seen)
    conversation.reset()
    assert conversation.messages == []


def test_characters_of_several_bytes_come_whole(tokenizer):
    said = []
    pieces = Pieces(tokenizer, [0], said.append)
    pieces.put(torch.tensor([[1, 2]]))  # the prompt
    for token in tokenizer("Число є 5", add_special_tokens=False)["input_ids"]:
        pieces.put(torch.tensor([token]))
    pieces.put(torch.tensor([0]))  # the end
    pieces.end()
    assert "".join(said) == "Число є 5"
    assert all("\ufffd" not in text for text in said)
    assert len(said) > 3


def test_sampling_with_a_seed_says_the_same_again(model, tokenizer):
    sampling = Sampling(temperature=1.5, max_new_tokens=8, seed=3)
    answers = {Conversation(model, tokenizer, sampling).reply("a", lambda text: None) for _ in range(2)}
    assert len(answers) == 1


def test_commands_of_the_terminal(model, tokenizer, tmp_path):
    said: list[str] = []
    conversation = Conversation(model, tokenizer, GREEDY)
    file = tmp_path / "deep" / "talk.jsonl"
    talk(
        conversation,
        lines(f"/save {file}", "/system be brief", "hello", f"/save {file}", "/reset", "/sing", "/exit", "unread"),
        said.append,
    )
    text = "".join(said)
    assert "nothing was said yet" in text
    assert "unknown command '/sing'" in text
    saved = json.loads(file.read_text())["messages"]
    assert [turn["role"] for turn in saved] == ["system", "user", "assistant"]
    assert saved[0]["content"] == "be brief"
    assert conversation.messages == []


def test_a_model_without_a_template_goes_on_with_the_text(model):
    plain = make_tokenizer(ENGLISH)
    plain.chat_template = None
    said: list[str] = []
    conversation = Conversation(model, plain, GREEDY)
    talk(conversation, lines("The number", "/system x"), said.append)
    assert said[0] == NO_TEMPLATE + "\n"
    assert conversation._ids([{"role": "user", "content": "The number"}]) == plain("The number")["input_ids"]
    assert not conversation.takes_system()


def test_a_conversation_longer_than_the_model_is_an_error_with_the_way_out(model, tokenizer):
    with pytest.raises(AdaptError, match=r"takes \d+ positions, but the model has 256; begin anew with /reset"):
        Conversation(model, tokenizer, GREEDY).reply("12 " * 200, lambda text: None)
