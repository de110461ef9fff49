"""Pairs of answers from rows of a file to batches: what is marked, what is cut, what is left out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.data.chat import sft_encoder
from adapt.data.documents import document_of
from adapt.data.pair_report import report_pairs
from adapt.data.pairs import SIDES, answers, build_pairs, collate_pairs
from adapt.data.sources import Files
from adapt.data.sources.base import Place
from adapt.errors import AdaptError
from tests.conftest import ENGLISH, make_tokenizer

TOKENIZER = make_tokenizer(ENGLISH)
HERE = Place("p.jsonl", 3)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(number: int, wrong: str = "no idea"):
    return {"prompt": [user(f"{number}?")], "chosen": [assistant(f"It is {number}.")], "rejected": [assistant(wrong)]}


def stream_of(folder: Path, rows, length: int = 64, **budget):
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    sources = {"pairs": Files(files=str(file), held_out=0)}
    budget = budget or {"epochs": 1}
    return build_pairs(sources, {"pairs": 1}, TOKENIZER, sequence_length=length, seed=3, cache=folder, **budget)


def test_an_answer_is_marked_as_in_sft(tmp_path):
    stream = stream_of(tmp_path, [pair(number) for number in range(6)])
    assert len(stream) == 6
    encode = sft_encoder(TOKENIZER)
    for row in stream:
        number = TOKENIZER.decode(row["chosen_ids"]).split("<|user|>")[1].split("?")[0]
        for side, document in zip(SIDES, answers(pair(int(number))), strict=True):
            encoded = encode(document)
            assert row[f"{side}_ids"] == encoded.ids
            assert row[f"{side}_mask"] == encoded.trained


def test_plain_text_ends_with_the_end_of_text(tmp_path):
    rows = [{"prompt": "12 is", "chosen": " twelve", "rejected": " two"}]
    (row,) = stream_of(tmp_path, rows)
    for side, answer in (("chosen", " twelve"), ("rejected", " two")):
        marked = [token for token, mark in zip(row[f"{side}_ids"], row[f"{side}_mask"], strict=True) if mark]
        assert TOKENIZER.decode(marked) == f"{answer}<|endoftext|>"


def test_the_prompt_of_two_conversations_is_what_they_begin_with():
    """As in data sets that hold whole conversations, with the first question as text beside them."""
    first = [user("a"), assistant("b"), user("c")]
    row = {"prompt": "a", "chosen": [*first, assistant("d")], "rejected": [*first, assistant("e")]}
    found = document_of(row, None, HERE)
    assert found == {"prompt": first, "chosen": [assistant("d")], "rejected": [assistant("e")]}


BAD = [
    ({"prompt": "a", "chosen": "b", "rejected": None}, "p.jsonl:3: chosen and rejected must both hold an answer"),
    (
        {"chosen": "b", "rejected": "c"},
        "p.jsonl:3: chosen and rejected share no first message, so a prompt is needed beside them",
    ),
    (
        {"chosen": [user("b")], "rejected": [user("c")]},
        "p.jsonl:3: chosen and rejected share no first message, so a prompt is needed beside them",
    ),
    ({"prompt": [user("a")], "chosen": "b", "rejected": "c"}, "field 'chosen' holds \"b\", not a list of messages"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[str(row) for row, _ in BAD])
def test_a_row_that_is_no_pair_is_named(row, message):
    with pytest.raises(AdaptError) as caught:
        document_of(row, None, HERE)
    assert message in str(caught.value)


def test_what_is_cut_and_what_is_left_out_is_counted(tmp_path):
    rows = [pair(1), pair(2, "It is 2."), pair(3, "no " * 40), {**pair(4), "prompt": [user("very " * 40)]}]
    stream = stream_of(tmp_path, rows, length=24)
    (report,) = report_pairs(stream, TOKENIZER)
    assert (report.pairs, report.equal, report.too_long) == (2, 1, 1)
    whole = sum(len(sft_encoder(TOKENIZER)(text).ids) for row in (rows[0], rows[2]) for text in answers(row))
    assert report.tokens + round(report.truncated * whole) == whole
    assert report.truncated > 0
    assert max(len(row[f"{side}_ids"]) for row in stream for side in SIDES) == 24


def test_no_usable_pair_is_one_line(tmp_path):
    with pytest.raises(AdaptError) as caught:
        stream_of(tmp_path, [pair(1, "It is 1."), pair(2)], length=4)
    assert str(caught.value) == (
        "source 'pairs' would train nothing: of 2 pairs 2 have no answer within 4 tokens and 0 have two equal answers; "
        "raise sequence_length or give other pairs"
    )


def test_a_stream_is_a_function_of_its_index_and_reads_again_in_another_order(tmp_path):
    stream = stream_of(tmp_path, [pair(number) for number in range(5)], epochs=2)
    assert len(stream) >= 9
    assert sorted(stream.numbers[:5]) == list(range(5))
    assert stream[3] == stream[3]
    same = [index for index in range(len(stream)) if stream.numbers[index] == stream.numbers[0]]
    assert all(stream[index] == stream[0] for index in same)


ROW = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(
    lambda sizes: {
        f"{side}_{what}": [value] * size
        for side, size, value in zip(SIDES, sizes, (7, 8), strict=True)
        for what, value in (("ids", value), ("mask", 1))
    }
)


@settings(max_examples=30, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5))
def test_a_batch_holds_every_row_and_nothing_else(rows):
    batch = collate_pairs(rows, pad_id=1)
    chosen, rejected = batch["input_ids"].chunk(2)
    for index, row in enumerate(rows):
        for side, ids in (("chosen", chosen), ("rejected", rejected)):
            size = len(row[f"{side}_ids"])
            place = index if side == "chosen" else len(rows) + index
            assert ids[index, :size].tolist() == row[f"{side}_ids"]
            assert batch["attention_mask"][place].tolist() == [1] * size + [0] * (ids.shape[1] - size)
            assert batch["completion_mask"][place].sum() == sum(row[f"{side}_mask"])
