"""The stream: all tokens once in an epoch, exact shares, rows that depend on their index only, and usable by TRL."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adapt.data.sources import Files
from adapt.data.stream import as_dataset, build_stream, collate
from adapt.errors import AdaptError
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer

LINES = {
    "english": [f"{line} ({n})" for n, line in enumerate(ENGLISH)],
    "ukrainian": [f"{line} ({n})" for n, line in enumerate(UKRAINIAN)],
    "long": [" ".join(ENGLISH[n:]) for n in range(5)],
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH + UKRAINIAN)


@pytest.fixture
def sources(write):
    return {
        name: Files(files=str(write(f"{name}.txt", "\n".join(lines))), held_out=0.0) for name, lines in LINES.items()
    }


@pytest.fixture
def build(sources, tokenizer, tmp_path):
    def make(mixture, **changes):
        settings = {
            "objective": "causal_lm",
            "sequence_length": 64,
            "packing": "best_fit",
            "seed": 1,
            "cache": tmp_path / "cache",
        }
        return build_stream(sources, mixture, tokenizer, **(settings | changes))

    return make


def pieces(row):
    """The row cut where positions begin anew."""
    begins = [place for place, position in enumerate(row["position_ids"]) if position == 0]
    ends = [*begins[1:], len(row["input_ids"])]
    return [tuple(row["input_ids"][begin:end]) for begin, end in zip(begins, ends, strict=True)]


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
@pytest.mark.parametrize("name", LINES)
def test_an_epoch_is_every_token_of_every_document_once(build, tokenizer, packing, name):
    stream = build({name: 1.0}, epochs=1, packing=packing)
    expected = [[*tokenizer(line)["input_ids"], tokenizer.eos_token_id] for line in LINES[name]]
    assert stream.tokens == sum(map(len, expected))
    found = [piece for row in stream for piece in pieces(row)]
    assert sorted(token for piece in found for token in piece) == sorted(t for ids in expected for t in ids)
    whole = {tuple(ids) for ids in expected}
    if packing == "best_fit" and name != "long":
        assert set(found) == whole
    counts = stream.sources[0].store.counts
    assert counts.tokens - counts.separators == sum(len(tokenizer(line)["input_ids"]) for line in LINES[name])


def test_pieces_of_a_cut_document_give_it_back(build, tokenizer):
    stream = build({"long": 1.0}, epochs=1)
    source = stream.sources[0]
    by_start = sorted((start, length) for s in range(len(source.packing)) for start, length in source.packing.pieces(s))
    tokens = [int(token) for start, length in by_start for token in source.store.tokens[start : start + length]]
    assert tokens == [t for line in LINES["long"] for t in [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]]


def test_labels_are_the_tokens_but_for_the_first_of_a_piece(build):
    for row in build({"english": 0.5, "ukrainian": 0.5}, tokens=3000):
        for token, label, position in zip(row["input_ids"], row["labels"], row["position_ids"], strict=True):
            assert label == (token if position else -100)


def test_shares_epochs_and_reports(build):
    stream = build({"english": 0.7, "ukrainian": 0.3}, tokens=20_000, multiple=8)
    assert len(stream) % 8 == 0
    assert stream.tokens >= 20_000
    for name, share in (("english", 0.7), ("ukrainian", 0.3)):
        assert abs(stream.tokens_of(name) - share * stream.tokens) <= 64
    reports = {report["source"]: report for report in stream.reports}
    assert json.loads(json.dumps(stream.reports)) == stream.reports
    english = reports["english"]
    assert english["documents"] == len(LINES["english"])
    assert english["epochs"] == pytest.approx(stream.tokens_of("english") / english["tokens"])
    assert english["epochs"] > 1
    assert english["bytes_per_token"] == pytest.approx(
        sum(len(line.encode()) for line in LINES["english"]) / english["tokens"]
    )


def test_epochs_count_the_scarcest_source(build):
    stream = build({"english": 0.9, "ukrainian": 0.1}, epochs=2)
    epochs = [report["epochs"] for report in stream.reports]
    assert max(epochs) == pytest.approx(2, abs=0.05)


def test_a_row_depends_on_its_index_only(build):
    mixture = {"english": 0.6, "ukrainian": 0.4}
    first, again = build(mixture, tokens=5000), build(mixture, tokens=5000)
    backwards = [again[index] for index in reversed(range(len(again)))]
    assert [first[index] for index in range(len(first))] == backwards[::-1]
    longer = build(mixture, tokens=9000)
    assert [longer[index] for index in range(len(first))] == list(first)


def test_seed_and_only_the_seed_changes_the_order(build):
    rows = [list(build({"english": 1.0}, epochs=1, seed=seed)) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    assert sorted(token for row in rows[0] for token in row["input_ids"]) == sorted(
        token for row in rows[2] for token in row["input_ids"]
    )


def test_an_index_outside_is_an_error(build):
    stream = build({"english": 1.0}, tokens=1000)
    for index in (-1, len(stream)):
        with pytest.raises(IndexError):
            stream[index]


def test_a_source_with_no_share_is_not_read(build):
    assert [source.name for source in build({"english": 1.0, "nowhere": 0.0}, tokens=500).sources] == ["english"]


def test_as_a_dataset_of_datasets(build):
    stream = build({"english": 0.5, "long": 0.5}, tokens=2000)
    dataset = as_dataset(stream)
    assert len(dataset) == len(stream)
    assert dataset[3] == stream[3]
    batch = collate([dataset[0], dataset[1]], pad_id=1)
    assert batch["input_ids"].shape == batch["position_ids"].shape == batch["labels"].shape


class TestConversations:
    @pytest.fixture
    def chats(self, write, sources):
        def conversation(question, answer):
            roles = zip(("user", "assistant"), (question, answer), strict=True)
            return {"messages": [{"role": role, "content": content} for role, content in roles]}

        rows = [conversation(f"Write {n}", f"number {n}") for n in range(40)]
        rows += [conversation("a", "b" * 200), conversation("a " * 200, "never reached")]
        path = write("chat.jsonl", "\n".join(map(json.dumps, rows)))
        sources["chat"] = Files(files=str(path), held_out=0.0)

    @pytest.mark.usefixtures("chats")
    @pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
    def test_conversations_stay_whole_and_what_is_cut_is_counted(self, build, tokenizer, packing):
        stream = build({"chat": 1.0}, epochs=1, objective="sft", packing=packing)
        user = tokenizer.convert_tokens_to_ids("<|user|>")
        found = [piece for row in stream for piece in pieces(row)]
        assert len(found) == 41
        assert all(piece[0] == user and piece.count(user) == 1 for piece in found)
        counts = stream.sources[0].store.counts
        assert stream.tokens + stream.sources[0].truncated == counts.tokens
        (report,) = stream.reports
        assert report["truncated"] == pytest.approx(stream.sources[0].truncated / counts.tokens)
        assert report["truncated"] > 0.2

    @pytest.mark.usefixtures("chats")
    def test_share_with_loss_is_what_the_rows_hold(self, build):
        stream = build({"chat": 1.0}, epochs=1, objective="sft")
        labels = np.concatenate([row["labels"] for row in stream])
        assert stream.reports[0]["loss_share"] == pytest.approx((labels >= 0).mean())
        assert "".join(text for text, trained in stream.reports[0]["example"] if trained).count("<|end|>") > 0

    @pytest.mark.usefixtures("chats")
    def test_nothing_to_train_stops_the_run(self, build):
        with pytest.raises(AdaptError, match="'chat' would train nothing: no answer begins within 2 tokens"):
            build({"chat": 1.0}, epochs=1, objective="sft", sequence_length=2)

    def test_objective_must_fit(self, build):
        with pytest.raises(AdaptError, match=r"english.txt', document 1: objective sft needs conversations"):
            build({"english": 1.0}, epochs=1, objective="sft")
