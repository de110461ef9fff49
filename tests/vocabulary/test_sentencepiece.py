"""SentencePiece BPE with byte fallback: what is learned, what stays, and that SentencePiece itself agrees."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.vocabulary.expansion import Growth, expand, tokenizer_report
from adapt.vocabulary.invariants import PROBES, check_loader, check_segmentation, parts_of
from adapt.vocabulary.sentencepiece import is_useful
from adapt.vocabulary.sentencepiece_model import extended
from adapt.vocabulary.splice import core_of, first_free_id, write_tokenizer
from tests.conftest import ENGLISH, UKRAINIAN
from tests.vocabulary.sentencepieces import document_of, parsed, processor, trained

JAPANESE = ["東京都は日本の首都です。日本語の文章を書く。", "東京の天気は晴れ、大阪の天気は雨です。２０２０年"] * 6
FRENCH = ["Le nombre quarante-cinq s’écrit en lettres.", "Une semaine a sept jours: lundi, mardi et mercredi."] * 6
CORPORA = {"cyrillic": UKRAINIAN, "kanji": JAPANESE, "latin": FRENCH}


@pytest.fixture(scope="module")
def model() -> bytes:
    return trained(ENGLISH)


@pytest.fixture(scope="module")
def base(model) -> dict:
    return document_of(model)


@pytest.fixture(scope="module", params=list(CORPORA))
def grown(request, base):
    return expand(base, Growth(80), CORPORA[request.param], CORPORA[request.param][:5])


@pytest.fixture(scope="module")
def slow(model, grown):
    return processor(extended(model, grown.document, "tokenizer.model"))


def naive(document: dict, texts: list[str], add: int) -> list[tuple[int, ...]]:
    """Continued BPE over characters as plainly as can be: count again after each merge; what each piece is made of.

    A symbol is an id, or the bytes of a character that has no piece.
    """
    core, words = core_of(document), Counter()
    letter = "(?:[^\\W\\d_]|[\u0300-\u036f])"
    for text in texts:
        text = core.normalizer.normalize_str(text)
        words.update(re.findall(f"▁*{letter}+|▁*\\d+|▁*(?:(?!{letter})[^▁\\d])+|▁+", text))
    strings = {index: token for token, index in core.get_vocab().items()}
    cut = {word: symbols(core, word) for word in words}
    made = []
    for new in range(len(strings), len(strings) + add):
        saves = Counter()
        for word, parts in cut.items():
            skip = None
            for place, part in enumerate(parts):
                if isinstance(part, bytes):
                    saves[(part,)] += words[word] * (len(part) - 1)
                elif place + 1 < len(parts) and isinstance(parts[place + 1], int):
                    pair = (part, parts[place + 1])
                    repeats = skip == (place, pair) and part == parts[place + 1]
                    skip = None if repeats else (place + 1, pair)
                    saves[pair] += 0 if repeats else words[word]
        written = {found: "".join(p.decode() if isinstance(p, bytes) else strings[p] for p in found) for found in saves}
        allowed = [found for found, string in written.items() if saves[found] >= 2 and is_useful(string)]
        allowed = [found for found in allowed if written[found] not in strings.values()]
        if not allowed:
            break
        best = min(allowed, key=lambda found: (-saves[found], rank(found)))
        strings[new] = written[best]
        made.append(tuple(core.token_to_id(f"<0x{byte:02X}>") for byte in best[0]) if len(best) == 1 else best)
        cut = {word: joined(parts, best, new) for word, parts in cut.items()}
    return made


def rank(found: tuple) -> tuple[int, ...]:
    """Ties: characters before pairs, the last code point first; then the smaller ids."""
    return (-ord(found[0].decode()), 0) if len(found) == 1 else found


def symbols(core, word: str) -> list[int | bytes]:
    known = core.get_vocab()
    result: list[int | bytes] = []
    for inside, part in itertools.groupby(word, key=lambda character: character in known):
        if inside:
            result += [token.id for token in core.model.tokenize("".join(part))]
        else:
            result += [character.encode() for character in part]
    return result


def joined(parts: list, found: tuple, new: int) -> list:
    result, place = [], 0
    while place < len(parts):
        width = len(found) if tuple(parts[place : place + len(found)]) == found else 1
        result.append(new if width == len(found) and tuple(parts[place : place + width]) == found else parts[place])
        place += width
    return result


@pytest.mark.parametrize("texts", list(CORPORA.values()), ids=list(CORPORA))
def test_learns_what_a_plain_learner_learns(base, texts):
    assert [piece.made_of for piece in expand(base, Growth(70), texts).pieces] == naive(base, texts, 70)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("абв theй, ", min_size=2, max_size=30), min_size=1, max_size=6))
def test_learns_what_a_plain_learner_learns_on_any_text(base, texts):
    expected = naive(base, texts, 15)
    if expected:
        assert [piece.made_of for piece in expand(base, Growth(15), texts).pieces] == expected


def test_a_character_without_a_piece_is_made_of_its_bytes_and_comes_before_what_holds_it(base):
    grown = expand(base, Growth(80), JAPANESE)
    characters = {piece.string: piece for piece in grown.pieces if piece.spelled}
    assert {"東", "京", "日"} <= set(characters)
    named = [grown.base.id_to_token(index) for index in characters["東"].made_of]
    assert named == [f"<0x{byte:02X}>" for byte in "東".encode()]
    assert characters["東"].saved == 2 * sum(line.count("東") for line in JAPANESE)
    longer = next(piece for piece in grown.pieces if piece.string == "▁東京")
    assert longer.id > characters["東"].id
    parts = parts_of(grown.pieces)
    space = grown.base.token_to_id("▁")
    assert parts[longer.id] == (space, *characters["東"].made_of, *characters["京"].made_of)
    assert grown.texts[longer.id - grown.ids[0]] == " 東京"


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60) | st.sampled_from([*UKRAINIAN, *JAPANESE, *ENGLISH, *FRENCH, *PROBES]))
def test_any_text_is_cut_as_before_with_neighbours_joined_and_comes_back(grown, text):
    check_segmentation(grown.base, grown.tokenizer, grown.pieces, [text])
    ids = grown.tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) <= len(grown.base.encode(text, add_special_tokens=False).ids)
    if "<" not in text:
        assert grown.tokenizer.decode(ids) == text.replace("▁", " ")


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from("".join([*UKRAINIAN, *JAPANESE, *FRENCH, "  ▁<>"])), max_size=40) | st.text())
def test_sentencepiece_itself_gives_the_same_ids(slow_base, grown, slow, text):
    fast = grown.tokenizer.encode(text, add_special_tokens=False).ids
    before = grown.base.encode(text, add_special_tokens=False).ids
    if slow_base.encode(text) == before:  # they differ where the text holds a special token's name
        assert slow.encode(text) == fast


@pytest.fixture(scope="module")
def slow_base(model):
    return processor(model)


def test_sentencepiece_itself_gives_the_same_ids_on_whole_texts(slow_base, grown, slow):
    for text in (*UKRAINIAN, *JAPANESE, *ENGLISH, *FRENCH, *PROBES):
        assert slow.encode(text) == grown.tokenizer.encode(text, add_special_tokens=False).ids
        assert slow_base.encode(text) == grown.base.encode(text, add_special_tokens=False).ids


def test_the_extended_model_has_the_old_pieces_and_falling_scores_below_them(model, grown):
    old, new = parsed(model), parsed(extended(model, grown.document, "tokenizer.model"))
    assert list(new.pieces)[: len(old.pieces)] == list(old.pieces)
    assert new.normalizer_spec == old.normalizer_spec
    assert new.trainer_spec.vocab_size == len(new.pieces) == len(old.pieces) + len(grown.pieces)
    added = list(new.pieces)[len(old.pieces) :]
    assert [piece.piece for piece in added] == [piece.string for piece in grown.pieces]
    assert {piece.type for piece in added} == {added[0].NORMAL}
    merged = [piece.score for piece, made in zip(added, grown.pieces, strict=True) if not made.spelled]
    lowest = min(piece.score for piece in old.pieces if piece.type == piece.NORMAL)
    assert (np.diff(np.float32([lowest, *merged])) < 0).all()


@pytest.mark.parametrize("lowest", [-1e9, -123456.75, -0.5, 0.0])
def test_scores_stay_apart_in_single_precision(base, model, lowest):
    """Mistral has pieces with a score of -1e9, where neighbouring numbers are 64 apart."""
    proto = parsed(model)
    next(piece for piece in proto.pieces if piece.type == piece.NORMAL).score = lowest
    for piece in proto.pieces:
        piece.score = max(piece.score, lowest)
    grown = expand(base, Growth(60), FRENCH)
    score = {
        piece.piece: piece.score for piece in parsed(extended(proto.SerializeToString(), grown.document, "x")).pieces
    }
    merged = [score[piece.string] for piece in grown.pieces if not piece.spelled]
    assert (np.diff(np.float32([lowest, *merged])) < 0).all()


def test_tokens_that_only_tokenizer_json_adds_keep_their_places(base, model):
    document = copy.deepcopy(base)
    size = first_free_id(base)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for index, (name, special) in enumerate((("<pad>", True), ("<<SYS>>", False))):
        document["added_tokens"].append({"id": size + index, "content": name, "special": special, **flags})
    grown = expand(document, Growth(20), UKRAINIAN)
    assert grown.ids[0] == size + 2
    content = extended(model, grown.document, "x")
    pieces = list(parsed(content).pieces)
    assert (pieces[size].piece, pieces[size].type) == ("<pad>", pieces[0].CONTROL)
    assert (pieces[size + 1].piece, pieces[size + 1].type) == ("<<SYS>>", pieces[0].USER_DEFINED)
    text = UKRAINIAN[0]
    assert processor(content).encode(text) == grown.tokenizer.encode(text, add_special_tokens=False).ids
    document["added_tokens"][-1]["id"] += 5
    with pytest.raises(AdaptError, match=rf"'x' cannot be extended: no token has the id {size + 1}, but larger ids"):
        extended(model, document, "x")


def test_other_models_are_not_extended(base):
    with pytest.raises(AdaptError, match=r"'some/tokenizer\.model' is not a SentencePiece model"):
        extended(b"\xff" * 20, base, "some/tokenizer.model")
    with pytest.raises(AdaptError, match=r"is a SentencePiece model of type UNIGRAM, but tokenizer\.json beside it is"):
        extended(trained(ENGLISH, 300, "unigram"), base, "some/tokenizer.model")


def test_no_new_piece_is_a_part_of_an_old_one_that_merges_never_make(base, model):
    """SentencePiece would build such a piece from any two halves: old text would begin to use it."""
    proto = parsed(model)
    proto.pieces.add(piece="їжак", score=-1.0)
    text = ["їж їж їж їжак ак ак"] * 4
    document = document_of(proto.SerializeToString())
    assert len(core_of(document).encode("їжак").ids) > 2
    grown = expand(document, Growth(40), [*text, *UKRAINIAN])
    assert "ї" in {piece.string for piece in expand(base, Growth(40), [*text, *UKRAINIAN]).pieces}
    assert not {"ї", "їж", "їжа", "жак", "ак", "к"} & {piece.string for piece in grown.pieces}
    slow = processor(extended(proto.SerializeToString(), grown.document, "x"))
    assert slow.encode(text[0]) == grown.tokenizer.encode(text[0], add_special_tokens=False).ids


def test_protected_text_keeps_its_ids(base):
    free = expand(base, Growth(80), [*FRENCH, *UKRAINIAN])
    guarded = expand(base, Growth(80), FRENCH, protect=UKRAINIAN)
    encode = lambda tokenizer: [tokenizer.encode(text).ids for text in UKRAINIAN]  # noqa: E731
    assert encode(guarded.tokenizer) == encode(guarded.base)
    assert encode(free.tokenizer) != encode(free.base)


def test_the_curve_is_what_the_tokenizers_do(base):
    held_out = [*UKRAINIAN[:4], *JAPANESE[:1]]
    grown = expand(base, Growth(60), [*UKRAINIAN, *JAPANESE], held_out)
    report = tokenizer_report(grown, held_out)
    counts = Counter(i for text in [*UKRAINIAN, *JAPANESE] for i in grown.tokenizer.encode(text).ids)
    assert report["curve"][-1] == [60, report["after"]["bytes_per_token"]]
    assert report["steps_only"] == sum(counts[index] == 0 for index in grown.ids)


def test_merges_written_as_text(base):
    """Older files write a merge as one string."""
    old = copy.deepcopy(base)
    old["model"]["merges"] = [" ".join(merge) for merge in base["model"]["merges"]]
    assert expand(old, Growth(30), FRENCH).pieces == expand(base, Growth(30), FRENCH).pieces
    last = next(piece for piece in expand(old, Growth(30), FRENCH).pieces[::-1] if not piece.spelled)
    merge = expand(old, Growth(30), FRENCH).document["model"]["merges"][-1]
    assert isinstance(merge, str)
    assert merge.replace(" ", "") == last.string


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_the_folder_loads_in_every_way_with_the_same_ids(base, model, family, tmp_path):
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
    (old / "tokenizer.model").write_bytes(model)
    (old / "tokenizer.json").write_text(json.dumps(base))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (old / "tokenizer_config.json").write_text(json.dumps(settings))
    before = AutoTokenizer.from_pretrained(old)
    grown = expand(base, Growth(60), UKRAINIAN)
    write_tokenizer(before, grown.document, new, ModelLocation(str(old)))
    loaded = AutoTokenizer.from_pretrained(new)
    texts = (*UKRAINIAN, *ENGLISH, *PROBES, " a space first", "two  spaces")
    check_loader(loaded, grown.tokenizer, texts, before=(before, grown.base))
    slow, fast = SentencePieceProcessor(model_file=str(new / "tokenizer.model")), Tokenizer.from_file
    fast = fast(str(new / "tokenizer.json"))
    for text in texts:
        assert slow.encode(text) == fast.encode(text, add_special_tokens=False).ids
    assert len(loaded) == slow.vocab_size() == len(before) + 60


@pytest.mark.parametrize(
    ("piece", "useful"),
    [
        ("▁слово", True),
        ("слово", True),
        ("東京", True),
        ("▁«", True),
        ("...", True),
        ("हिन्दी", True),
        ("می\u200cخواهم", True),
        ("слово▁", False),
        ("▁▁", False),
        ("▁", False),
        ("слово,", False),
        ("▁7", False),
        ("２０", False),
        ("\u00a0", False),
        ("\u0085", False),
        ("\U0010fffd", False),
    ],
)
def test_is_useful(piece, useful):
    assert is_useful(piece) is useful


def test_at_most_so_many_characters():
    assert is_useful("▁слово", 6)
    assert not is_useful("▁слово", 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byte_fallback": False}, "it is BPE over characters (SentencePiece) without byte fallback"),
        ({"vocab": {"<unk>": 0, "<0x00>": 1}, "merges": []}, "it falls back to bytes, but has no piece <0x01>"),
        ({"merges": [["<0xD0>", "<0xB0>"]]}, "it merges pieces of bytes"),
        ({"type": "Unigram"}, "it is a Unigram tokenizer"),
    ],
)
def test_others_are_refused(base, change, message):
    with pytest.raises(AdaptError) as error:
        expand(base | {"model": base["model"] | change}, Growth(10), UKRAINIAN, name="some/model")
    assert str(error.value) == (
        f"cannot expand the vocabulary of 'some/model': {message}; expand_vocabulary grows byte-level BPE (GPT-2, "
        "Llama-3, Qwen, tekken) and SentencePiece BPE with byte fallback (Llama-2, Mistral v1)"
    )
