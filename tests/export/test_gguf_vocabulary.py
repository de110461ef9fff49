"""GGUF: the tokenizer, row for row, and that text is cut as before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.export.gguf.pre_tokenizers import FAMILIES, name_of, warnings
from adapt.export.gguf.proof import prove, rebuilt_tokenizer
from adapt.export.gguf.sentencepiece import from_merges
from adapt.export.gguf.templates import plain_template, without_generation
from adapt.export.gguf.types import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from adapt.export.gguf.vocabulary import read
from adapt.export.gguf.write import Plan, write
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN, make_tokenizer
from tests.export.conftest import sentencepiece_model
from tests.vocabulary.sentencepieces import parsed

TINY = Path(__file__).parents[2] / "examples" / "models" / "tiny-en-instruct"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    tokenizer = make_tokenizer(ENGLISH)
    tokenizer.add_tokens(["<unit>"])
    tokenizer.save_pretrained(place)
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (place / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    return place


def test_a_token_for_every_row(folder):
    found = read(folder, 400)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert found.model == "gpt2"
    assert found.pre == "smollm"
    assert len(found.tokens) == len(found.types) == len(set(found.tokens)) == 400
    assert found.tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert found.tokens[-1] == "[PAD399]"
    assert found.types[:6] == [CONTROL] * 6
    assert found.types[len(tokenizer) - 1] == USER_DEFINED
    assert set(found.types[6 : len(tokenizer) - 1]) == {NORMAL}
    assert set(found.types[len(tokenizer) :]) == {UNUSED}
    assert found.special == {"eos": 0, "pad": 1, "eot": 5}
    assert found.adds == {"bos": False, "eos": False, "space": False}


def test_the_example_begins_with_a_token_and_is_cut_like_qwen2():
    found = read(TINY, 1800)
    assert found.pre == "qwen2"
    assert found.adds["bos"]
    assert found.special["bos"] == 0


def test_a_token_without_a_row_is_refused(folder):
    with pytest.raises(AdaptError, match=r"has 300 rows in its embedding, but the token '<unit>' has the id 384"):
        read(folder, 300)


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.text(max_size=40), st.sampled_from([*ENGLISH[:5], *UKRAINIAN[:5], "a  b\n\n12345 don't\r\n!?"])))
def test_what_a_name_stands_for_cuts_text_as_the_tokenizer_does(text):
    document = read_json(TINY / "tokenizer.json")
    own = AutoTokenizer.from_pretrained(TINY)
    found = read(TINY, 1800)
    if any(token in text for token in own.get_added_vocab()):
        return
    rebuilt = rebuilt_tokenizer(found.tokens, found.merges, found.pre)
    assert document["model"]["type"] == "BPE"
    assert rebuilt.encode(text).ids == own(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_known_by_their_rules(name):
    steps = []
    for kind, value in FAMILIES[name].rules:
        if kind == "split":
            steps.append(pre_tokenizers.Split(Regex(value), behavior="isolated"))
        elif kind == "digits":
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value))
    core = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], ignore_merges=FAMILIES[name].ignore_merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    assert name_of(json.loads(core.to_str()), None) == name


def test_unknown_rules_are_refused_unless_a_name_is_given():
    document = {"model": {}, "pre_tokenizer": {"type": "Whitespace"}}
    with pytest.raises(AdaptError, match=r"known by its rules \(gpt-2, smollm, .*; set gguf.pre_tokenizer"):
        name_of(document, None)
    assert name_of(document, "falcon") == "falcon"


def test_a_family_that_takes_whole_pieces_does_not_stand_for_one_that_merges():
    document = read_json(TINY / "tokenizer.json")
    with pytest.raises(AdaptError, match="'llama-bpe' has ignore_merges true, the tokenizer false; text would be cut"):
        name_of(document, "llama-bpe")


def test_a_normaliser_is_told():
    assert warnings({"normalizer": {"type": "NFC"}}) == [
        "the tokenizer normalises text (NFC), llama.cpp does not; give it text in that form"
    ]
    assert warnings({"normalizer": None}) == []


def test_the_template_loses_its_training_tags_and_nothing_else():
    tokenizer = make_tokenizer(ENGLISH)
    plain = plain_template(tokenizer)
    assert "generation %}" not in plain
    assert plain == CHAT_TEMPLATE.replace("{% generation %}", "{% if true %}").replace(
        "{% endgeneration %}", "{% endif %}"
    )
    trimmed = "a {%- generation -%} b {%- endgeneration %} c {% if add_generation_prompt %}d{% endif %}"
    assert without_generation(trimmed) == trimmed.replace("generation -", "if true -").replace("endgeneration", "endif")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    """A checkpoint with a SentencePiece tokenizer in the manner of Llama 2, with and without its own file."""
    return sentencepiece_model(tmp_path_factory.mktemp("pieces"))


def test_sentencepiece_has_its_own_scores_and_types(pieces):
    found, proto = read(pieces, 410), parsed((pieces / "tokenizer.model").read_bytes())
    assert found.model == "llama"
    assert found.types == [piece.type for piece in proto.pieces] + [UNUSED] * 10
    assert found.types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert found.scores[:400] == [piece.score for piece in proto.pieces]
    assert found.adds == {"bos": False, "eos": False, "space": True}
    assert found.merges == []


@pytest.mark.parametrize("own_file", [True, False], ids=["tokenizer.model", "merges"])
def test_sentencepiece_itself_cuts_text_by_what_is_written(own_file, pieces, tmp_path):
    shutil.copytree(pieces, tmp_path / "model")
    if not own_file:
        (tmp_path / "model" / "tokenizer.model").unlink()
    plan = Plan.of(tmp_path / "model", "f16")
    write(plan, tmp_path / "model.gguf", "tiny")
    texts = [*ENGLISH[:5], *UKRAINIAN[:5], "a  b \n 12", "émoji 🙂 ї"]
    assert prove(plan, tmp_path / "model.gguf", texts)["texts"] == len(texts)
    worse = replace(plan.vocabulary, scores=[-score for score in plan.vocabulary.scores])
    worse = replace(plan, vocabulary=worse)
    write(worse, tmp_path / "worse.gguf", "tiny")
    with pytest.raises(AdaptError, match="cuts a text differently than the tokenizer: '"):
        prove(worse, tmp_path / "worse.gguf", texts)
    with pytest.raises(AdaptError, match="has other types or scores of tokens than were written"):
        prove(plan, tmp_path / "worse.gguf")


def test_merges_that_scores_cannot_say_are_refused():
    document = {"model": {"merges": ["a b", "c d", "ab c", "a bc"]}}
    assert from_merges(document, ["ab", "cd", "abc", "x"]) == [0, -1, -2, 0]
    document["model"]["merges"].insert(3, "c e")
    with pytest.raises(AdaptError, match=r"merges that make 'abc' stand apart, which scores cannot say; add tokenizer"):
        from_merges(document, ["abc"])


def test_a_stale_sentencepiece_file_is_refused(pieces, tmp_path):
    shutil.copytree(pieces, tmp_path / "model")
    proto = parsed((pieces / "tokenizer.model").read_bytes())
    proto.pieces[399].piece = "▁zz"
    (tmp_path / "model" / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(AdaptError, match=r"tokenizer.model' has '▁zz' at 399, tokenizer.json has .*; one of them is"):
        read(tmp_path / "model", 410)
