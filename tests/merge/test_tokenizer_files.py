"""Tokens read from a tokenizer.json by its keys: the same as by reading the whole file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge.errors import MergeError
from merge.tokenizer_files import tokens_in

TRICKY = ['"vocab": {', "vocab", "added_tokens", '{"added_tokens": []}', "\\", '\\"', "}", "ї", "\n", '"']


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(TRICKY), st.text(max_size=6)), unique=True, max_size=12),
    st.lists(st.sampled_from(TRICKY), unique=True, max_size=3),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_every_token_is_found_whatever_it_is_called(tmp_path_factory, tokens, added, ascii_only, indent, model_first):
    path = tmp_path_factory.mktemp("files") / "tokenizer.json"
    entries = [{"id": index, "content": token, "special": True} for index, token in enumerate(added)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    parts = [("added_tokens", entries), ("normalizer", {"prepend": '"vocab": ['})]
    parts.insert(0 if model_first else 2, ("model", {"vocab": vocabulary, "merges": [tokens[:2]]}))
    path.write_text(json.dumps(dict(parts), ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    assert tokens_in(path) == (vocabulary, entries)


def test_a_file_with_more_than_one_vocabulary_is_read_whole(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"other": {"vocab": {"x": 7}}, "model": {"vocab": [["a", -1.5], ["b", -2.0]]}}))
    assert tokens_in(path) == ({"a": 0, "b": 1}, [])


@pytest.mark.parametrize(
    "text", ["", '{"added_tokens": [], "model": {"vocab": {"a": 0}, "merges": [["a"', "[1, 2]", "{}"]
)
def test_what_is_no_tokenizer(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(MergeError, match=r"cannot read '.*tokenizer\.json'|is no tokenizer"):
        tokens_in(path)
