"""Tokens on disk: made once, whole or not at all, and nothing of what is held out."""

from __future__ import annotations

import resource

import numpy as np
import pytest

from adapt.data.sources import Files, Generator, training_documents
from adapt.data.store import open_store
from adapt.errors import AdaptError
from tests.conftest import CHAT_TEMPLATE, ENGLISH, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ENGLISH)


@pytest.fixture
def source(write):
    return Files(files=str(write("a.txt", "\n".join(f"line {n}\n" for n in range(400)))), held_out=0.1)


def test_made_once_and_read_from_disk(source, tokenizer, tmp_path):
    first = open_store(source, tokenizer, "causal_lm", tmp_path)
    before = (first.folder / "tokens.bin").stat().st_mtime_ns
    again = open_store(source, tokenizer, "causal_lm", tmp_path)
    assert again.folder == first.folder
    assert (again.folder / "tokens.bin").stat().st_mtime_ns == before
    assert isinstance(again.tokens, np.memmap)
    assert again.tokens.dtype == np.uint32


def test_holds_the_training_documents_and_no_other(source, tokenizer, tmp_path):
    store = open_store(source, tokenizer, "causal_lm", tmp_path)
    ids = [store.tokens[begin:end].tolist() for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True)]
    texts = [document["text"] for document in training_documents(source)]
    assert [tokenizer.decode(tokens) for tokens in ids] == [text + "<|endoftext|>" for text in texts]
    counts = store.counts
    assert counts.documents == len(texts) == 400 - counts.held_out
    assert counts.separators == counts.documents
    assert counts.bytes == sum(map(len, texts))


def test_what_decides_the_tokens_decides_the_folder(source, tokenizer, tmp_path, write):
    folders = {open_store(source, tokenizer, "causal_lm", tmp_path).folder}
    folders.add(open_store(source.model_copy(update={"held_out": 0.2}), tokenizer, "causal_lm", tmp_path).folder)
    folders.add(open_store(source, make_tokenizer(ENGLISH, 320), "causal_lm", tmp_path).folder)
    write("a.txt", "other text")
    folders.add(open_store(source.model_copy(update={"held_out": 0.0}), tokenizer, "causal_lm", tmp_path).folder)
    assert len(folders) == 4


def test_a_failure_leaves_nothing_behind(write, tokenizer, tmp_path):
    good = "\n".join('{"text": "a fine line"}' for _ in range(3000))
    source = Files(files=str(write("a.jsonl", good + "\n{broken")))
    with pytest.raises(AdaptError, match=r"a.jsonl:3001: not JSON"):
        open_store(source, tokenizer, "causal_lm", tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


@pytest.fixture
def small_disk():
    """No file of this process may grow beyond a kilobyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line(source, tokenizer, tmp_path, small_disk):
    with pytest.raises(AdaptError, match=r"cannot write tokens below .*: File too large"):
        open_store(source, tokenizer, "causal_lm", tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_what_a_killed_process_left_is_removed(source, tokenizer, tmp_path):
    store = open_store(source, tokenizer, "causal_lm", tmp_path)
    left = store.folder.parent / f".{store.folder.name}-1.999999999"
    store.folder.rename(left)
    open_store(source, tokenizer, "causal_lm", tmp_path)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [store.folder.name]


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "counts.json"])
def test_a_damaged_store_is_named(source, tokenizer, tmp_path, name):
    path = open_store(source, tokenizer, "causal_lm", tmp_path).folder / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AdaptError, match=r"are damaged .*; delete that folder"):
        open_store(source, tokenizer, "causal_lm", tmp_path)


def test_nothing_but_empty_or_held_out_documents(write, tokenizer, tmp_path):
    empty = Files(files=str(write("a.jsonl", '{"text": ""}\n{"text": null}')))
    with pytest.raises(AdaptError, match="gives no token: its 2 documents are empty"):
        open_store(empty, tokenizer, "causal_lm", tmp_path)
    kept = Files(files=str(write("b.txt", "a\nb")), held_out=1.0)
    with pytest.raises(AdaptError, match="leaves nothing to train on: all 2 documents are held out"):
        open_store(kept, tokenizer, "causal_lm", tmp_path)


def test_conversations_with_their_mask(tokenizer, tmp_path):
    tokenizer.chat_template = CHAT_TEMPLATE
    source = Generator(generator="adapt.demo:conversations", arguments={"languages": ["en"], "count": 50}, held_out=0.0)
    store = open_store(source, tokenizer, "sft", tmp_path)
    assert store.counts.documents == 50
    assert len(store.trained) == len(store.tokens)
    ends = store.tokens[store.offsets[1:] - 1]
    assert set(ends.tolist()) == {tokenizer.convert_tokens_to_ids("<|end|>")}
    assert store.trained[store.offsets[1:] - 1].all()


def test_the_place_of_a_refused_conversation(write, tokenizer, tmp_path):
    path = write("a.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n{"messages": []}\n')
    source = Files(files=str(path), held_out=0.0)
    with pytest.raises(AdaptError, match=r"a.jsonl', document 2: the conversation has no messages"):
        open_store(source, tokenizer, "sft", tmp_path)
