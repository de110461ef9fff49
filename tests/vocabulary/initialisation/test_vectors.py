"""Static vectors: what tokens stand for, files, training on a corpus, vectors of tokens."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.vocabulary.vectors import inside, load_vectors, readable, texts_of, token_vectors, train_vectors
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer
from tests.vocabulary.initialisation.bijection import random_rows, write_vectors

BYTE_LEVEL = make_tokenizer(ENGLISH + UKRAINIAN, 700)
CORPUS = [line.split() for line in ENGLISH]


def sentencepiece():
    """BPE over characters with `▁` and byte fallback, in the manner of Llama-2."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeмир", "▁a", "▁ab", "ми", "мир"]
    merges = [("▁", "a"), ("▁a", "b"), ("м", "и"), ("ми", "р")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


SENTENCEPIECE = sentencepiece()


@pytest.mark.parametrize(
    ("token", "text"), [("Ġthe", " the"), ("Ð", ""), ("ÐµÐ²", "ев"), ("<|user|>", "<|user|>"), ("Ċ", "\n")]
)
def test_byte_level_tokens_can_be_read(token, text):
    assert readable(token, BYTE_LEVEL) == text


@pytest.mark.parametrize(
    ("token", "text"), [("▁ab", " ab"), ("мир", "мир"), ("<0x0A>", "\n"), ("<0xD0>", ""), ("<unk>", "<unk>")]
)
def test_sentencepiece_tokens_can_be_read(token, text):
    assert readable(token, SENTENCEPIECE) == text


def test_many_ids_at_once_and_ids_of_no_token():
    ids = [*range(len(BYTE_LEVEL)), len(BYTE_LEVEL) + 3]
    tokens = BYTE_LEVEL.convert_ids_to_tokens(ids[:-1])
    assert texts_of(ids, BYTE_LEVEL) == [*(readable(token, BYTE_LEVEL) for token in tokens), ""]


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("abcdeмирshoц"), min_size=1, max_size=8))
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte_level", "sentencepiece"])
def test_the_pieces_inside_a_sentence_are_the_word(tokenizer, word):
    ids = inside([word], tokenizer)[0]
    assert tokenizer.decode(tokenizer("a", add_special_tokens=False)["input_ids"] + ids).split() in (
        ["a", word],
        ["a" + word],  # where the space is a piece of its own it belongs to no word
    )


def test_all_kinds_of_files_hold_the_same_vectors(tmp_path):
    import gzip

    from gensim.models import KeyedVectors

    words, matrix = ["one", "two", "три"], random_rows(3, 5)
    text = write_vectors(tmp_path / "a.vec", words, matrix)
    keyed = KeyedVectors.load_word2vec_format(text)
    keyed.save_word2vec_format(str(tmp_path / "b.bin"), binary=True)
    (tmp_path / "c.vec.gz").write_bytes(gzip.compress((tmp_path / "a.vec").read_bytes()))
    for name in ("a.vec", "b.bin", "c.vec.gz"):
        read = load_vectors(str(tmp_path / name))
        assert list(read.words) == words
        assert torch.allclose(read.matrix, matrix, atol=1e-5)
        assert read.compose is None


def test_a_fasttext_file_composes_words_that_it_does_not_hold(tmp_path):
    from gensim.models import FastText
    from gensim.models.fasttext import save_facebook_model

    model = FastText(CORPUS, vector_size=8, min_count=1, bucket=500, workers=1, seed=1, epochs=1)
    save_facebook_model(model, str(tmp_path / "en.bin"))
    read = load_vectors(str(tmp_path / "en.bin"))
    assert torch.allclose(torch.tensor(read.compose("capitals")), torch.tensor(model.wv["capitals"]))
    assert torch.allclose(torch.tensor(read.compose("capital")), torch.tensor(model.wv["capital"]))
    assert not read.compose("").any()


def test_training_is_deterministic_in_the_seed_and_keeps_the_ends_of_long_documents():
    first, again, other = (train_vectors(CORPUS, seed, dimension=10, min_count=1) for seed in (1, 1, 2))
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.equal(first.matrix, other.matrix)
    long = train_vectors([["word"] * 12_000 + ["end"]], 0, dimension=4, min_count=1, epochs=1)
    assert set(long.words) == {"word", "end"}


def test_a_token_is_the_mean_of_the_words_that_hold_it_weighted_by_rank(tmp_path):
    words = ["Mxnday", "Txesday", "sxnday", "nxmber"]
    space = load_vectors(write_vectors(tmp_path / "a.vec", words, random_rows(4, 4)))
    found = token_vectors(space, range(len(BYTE_LEVEL)), BYTE_LEVEL)
    shared = 0
    for index, row in enumerate(found):
        total, held = torch.zeros(4), []
        for rank, word in enumerate(words, 1):
            for text in (word, f" {word}"):
                if index in BYTE_LEVEL(text, add_special_tokens=False)["input_ids"]:
                    total += space.matrix[rank - 1] / rank
                    held.append(1 / rank)
        if texts_of([index], BYTE_LEVEL) == [" "]:
            total, held = torch.zeros(4), []  # the space before a word says nothing of it
        shared += len(set(held)) > 1
        assert torch.allclose(row, total / sum(held) if held else total, atol=1e-6)
    assert shared


def bad(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AdaptError) as caught:
        load_vectors(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_bad_files_are_one_line(tmp_path):
    hint = "; give a fastText .bin, or a .vec whose first line is the number of words and their dimension"
    assert bad(tmp_path, "a.vec", b"no numbers\n").startswith("cannot read static vectors from 'FILE': ")
    assert bad(tmp_path, "b.vec", b"2 3\na 1 2 3\n").endswith(hint)
    assert bad(tmp_path, "c.vec", b"1 2\na nan 1\n") == (
        "cannot read static vectors from 'FILE': it holds numbers that are not finite" + hint
    )
    assert bad(tmp_path, "d.bin", (793712314).to_bytes(4, "little")).endswith(hint)
    assert bad(tmp_path, "e.vec", b"").endswith(hint)
    assert bad(tmp_path, "f.kv", pickle.dumps({"a": 1})) == (
        "'FILE' is pickled, and nothing is unpickled; write it again with gensim's "
        "KeyedVectors.save_word2vec_format and give that file"
    )


def test_a_missing_file_is_one_line():
    with pytest.raises(AdaptError) as caught:
        load_vectors("no/such.vec")
    assert str(caught.value) == (
        "there is no file of static vectors 'no/such.vec'; give a file on this machine (nothing is downloaded)"
    )


def test_a_corpus_without_frequent_words():
    with pytest.raises(AdaptError, match=r"^no word of the corpus occurs 5 times, so no static vectors can be trained"):
        train_vectors([["a", "b"]], 0)


def test_without_gensim_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(AdaptError) as caught:
        load_vectors(write_vectors(tmp_path / "a.vec", ["a"], random_rows(1, 2)))
    assert str(caught.value) == "static vectors need gensim, which is not installed: pip install 'adapt[vectors]'"


@pytest.mark.slow
def test_training_does_not_depend_on_pythons_hash_seed():
    code = (
        "from adapt.vocabulary.vectors import train_vectors\n"
        "words = ['river stone bread water night'.split(), 'stone water river garden'.split()] * 20\n"
        "print(train_vectors(words, 3, dimension=6, min_count=1).matrix.tolist())\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0]
    assert runs[0] == runs[1]
