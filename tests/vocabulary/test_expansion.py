"""Continued BPE against an independent learner, and the invariants of a grown tokenizer (methods F, A-1 to A-8)."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from adapt.errors import AdaptError
from adapt.vocabulary.byte_level import byte_of, is_useful, to_bytes
from adapt.vocabulary.expansion import Growth, expand, tokenizer_report
from adapt.vocabulary.invariants import PROBES, check_reachable, check_segmentation, parts_of
from adapt.vocabulary.learning import Piece
from adapt.vocabulary.splice import core_of, first_free_id, spliced
from adapt.vocabulary.words import count_words, text_of, up_to
from tests.conftest import ENGLISH, UKRAINIAN, make_tokenizer

BASQUE = [
    "Zenbakia berrogeita bost idazten da, eta hamabi hamabi idazten da.",
    "Frantziako hiriburua Paris da, eta txanpona euroa da.",
    "Aste batek zazpi egun ditu: astelehena, asteartea, asteazkena, osteguna, ostirala, larunbata eta igandea.",
    "Galdera: nola idazten da zenbaki hau hitzez? Erantzuna: hamabi.",
] * 8
CORPORA = {"cyrillic": UKRAINIAN, "latin": BASQUE}


def document_of(lines=ENGLISH, size=384) -> dict:
    return json.loads(make_tokenizer(lines, size).backend_tokenizer.to_str())


@pytest.fixture(scope="module")
def base() -> dict:
    return document_of()


@pytest.fixture(scope="module", params=list(CORPORA))
def grown(request, base):
    return expand(base, Growth(60), CORPORA[request.param], CORPORA[request.param][:5])


def naive(tokenizer: Tokenizer, texts: list[str], add: int) -> list[tuple[int, int]]:
    """Continued BPE written as plainly as can be: count every pair in every word again after each merge."""
    strings = {index: token for token, index in tokenizer.get_vocab().items()}
    words = count_words(tokenizer, texts)
    cut = {word: [token.id for token in tokenizer.model.tokenize(word)] for word in words}
    merges = []
    for new in range(len(strings), len(strings) + add):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, ids in cut.items():
            last = None
            for index in range(len(ids) - 1):
                pair = (ids[index], ids[index + 1])
                repeats = last == (index - 1, pair) and pair[0] == pair[1]
                last = None if repeats else (index, pair)
                pairs[pair] += 0 if repeats else words[word]
        allowed = {
            pair: count
            for pair, count in pairs.items()
            if count >= 2
            and strings[pair[0]] + strings[pair[1]] not in strings.values()
            and is_useful(to_bytes(strings[pair[0]] + strings[pair[1]]))
        }
        if not allowed:
            break
        left, right = min(allowed, key=lambda pair: (-allowed[pair], pair))
        strings[new] = strings[left] + strings[right]
        merges.append((left, right))
        for word, ids in cut.items():
            cut[word] = joined(ids, left, right, new)
    return merges


def joined(ids, left, right, new):
    result, index = [], 0
    while index < len(ids):
        if ids[index : index + 2] == [left, right]:
            result.append(new)
            index += 2
        else:
            result.append(ids[index])
            index += 1
    return result


@pytest.mark.parametrize("texts", [UKRAINIAN, BASQUE, ["ааааа аааа ааа " * 3, "банана баннана " * 4]])
def test_learns_what_a_plain_learner_learns(base, texts):
    found = expand(base, Growth(70), texts)
    assert [(piece.left, piece.right) for piece in found.pieces] == naive(core_of(base), texts, 70)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("абв ", min_size=2, max_size=30), min_size=1, max_size=6))
def test_learns_what_a_plain_learner_learns_on_any_text(base, texts):
    expected = naive(core_of(base), texts, 15)
    if expected:
        assert [(piece.left, piece.right) for piece in expand(base, Growth(15), texts).pieces] == expected


def test_old_ids_stay_and_new_ids_follow_the_largest(base, grown):
    old, new = grown.base.get_vocab(), grown.tokenizer.get_vocab()
    assert all(new[token] == index for token, index in old.items())
    assert grown.ids == list(range(max(old.values()) + 1, max(old.values()) + 1 + len(grown.ids)))
    assert first_free_id(grown.document) == grown.ids[-1] + 1


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60) | st.sampled_from([*UKRAINIAN, *BASQUE, *ENGLISH, *PROBES]))
def test_any_text_is_cut_as_before_with_neighbours_joined(grown, text):
    check_segmentation(grown.base, grown.tokenizer, grown.pieces, [text])
    ids = grown.tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) <= len(grown.base.encode(text, add_special_tokens=False).ids)
    if "<|" not in text:
        assert grown.tokenizer.decode(ids) == text


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=12))
def test_pieces_of_characters_come_back(grown, data):
    """Ids that end inside a character decode as the base decodes their parts."""
    alphabet = {byte: character for character, byte in byte_of().items()}
    ids = [token.id for token in grown.tokenizer.model.tokenize("".join(alphabet[byte] for byte in data))]
    parts = parts_of(grown.pieces)
    old = [part for index in ids for part in parts.get(index, (index,))]
    assert grown.tokenizer.decode(ids) == grown.base.decode(old) == data.decode("utf-8", errors="replace")


def test_text_without_new_pieces_keeps_its_ids(base):
    cyrillic = expand(base, Growth(60), UKRAINIAN)
    for text in ENGLISH:
        assert cyrillic.tokenizer.encode(text).ids == cyrillic.base.encode(text).ids


def test_appending_merges_of_another_tokenizer_leaves_pieces_out_of_reach(base):
    """What continued BPE is for: the obvious way, appending foreign merges, fails the same check."""
    core = core_of(base)
    other = document_of(BASQUE, 384)
    strings = {index: token for token, index in core.get_vocab().items()}
    ids, pieces = {token: index for index, token in strings.items()}, []
    for left, right in other["model"]["merges"]:
        if left in ids and right in ids and left + right not in ids:
            ids[left + right] = first_free_id(base) + len(pieces)
            pieces.append(Piece(ids[left + right], ids[left], ids[right], left + right, 0, 0))
    document = spliced(base, pieces, strings)
    with pytest.raises(AdaptError, match="can never be produced"):
        check_reachable(document, pieces)


def test_the_first_pieces_do_not_depend_on_their_number(base):
    few, many = expand(base, Growth(20), UKRAINIAN), expand(base, Growth(60), UKRAINIAN)
    assert few.pieces == many.pieces[:20]


def test_learning_does_not_depend_on_the_order_of_the_text(base):
    assert expand(base, Growth(60), UKRAINIAN).pieces == expand(base, Growth(60), UKRAINIAN[::-1]).pieces


def test_protected_text_keeps_its_ids(base):
    free = expand(base, Growth(80), [*BASQUE, *ENGLISH])
    guarded = expand(base, Growth(80), BASQUE, protect=ENGLISH)
    encode = lambda tokenizer: [tokenizer.encode(text).ids for text in ENGLISH]  # noqa: E731
    assert encode(guarded.tokenizer) == encode(guarded.base)
    assert encode(free.tokenizer) != encode(free.base)


def test_no_piece_holds_a_digit_or_half_a_character_or_too_many_characters(base):
    long = expand(base, Growth(200), [*UKRAINIAN, "日本語のテキスト 東京都 ２０２０ 123 456 " * 5])
    texts = [to_bytes(piece.string) for piece in long.pieces]
    assert any("日本" in text.decode("utf-8", errors="ignore") for text in texts)
    for text in texts:
        assert is_useful(text)
        assert not any(character.isdigit() for character in text.decode("utf-8", errors="ignore"))
    short = expand(base, Growth(200), UKRAINIAN, held_out=UKRAINIAN[:5])
    limited = expand(base, Growth(200, max_length=3), UKRAINIAN, held_out=UKRAINIAN[:5])
    assert max(len(to_bytes(piece.string).decode(errors="replace")) for piece in short.pieces) > 3
    assert max(len(to_bytes(piece.string).decode(errors="replace")) for piece in limited.pieces) == 3


@pytest.mark.parametrize(
    ("piece", "useful"),
    [
        ("слово".encode(), True),
        (" слово".encode(), True),
        (b"\xd0", True),
        ("日".encode()[:2], True),
        ("日".encode()[1:], False),
        ("сл".encode()[1:], False),
        ("сл".encode()[:3], False),
        (b"\xff", False),
        (b"in 2020", False),
        ("½".encode(), False),
    ],
)
def test_is_useful(piece, useful):
    assert is_useful(piece) is useful


@pytest.mark.parametrize("texts", list(CORPORA.values()), ids=list(CORPORA))
def test_the_report_counts_what_the_tokenizers_do(base, texts):
    held_out = texts[:4]
    grown = expand(base, Growth(60), texts, held_out)
    before = sum(len(grown.base.encode(text).ids) for text in held_out)
    after = sum(len(grown.tokenizer.encode(text).ids) for text in held_out)
    size, words = sum(len(text.encode()) for text in held_out), sum(len(text.split()) for text in held_out)
    report = tokenizer_report(grown, held_out)
    assert report["before"] == {"fertility": before / words, "bytes_per_token": size / before}
    assert report["after"] == {"fertility": after / words, "bytes_per_token": size / after}
    assert report["curve"][0] == [0, size / before]
    assert report["curve"][-1] == [60, size / after]
    assert report["saving"] == 1 - after / before > 0.15
    half = expand(base, Growth(30), texts)
    assert [30, size / sum(len(half.tokenizer.encode(text).ids) for text in held_out)] in report["curve"]
    counts = Counter(index for text in texts for index in grown.tokenizer.encode(text).ids)
    assert report["steps_only"] == sum(counts[index] == 0 for index in grown.ids)


def test_special_tokens_behind_the_vocabulary_keep_their_ids(base):
    """As in Qwen and Llama-3: added tokens are not in the model's vocabulary, their ids begin where it ends."""
    document = json.loads(json.dumps(base))
    special = document["added_tokens"]
    size = len(document["model"]["vocab"])
    names = [token["content"] for token in special]
    pieces = sorted((t for t in document["model"]["vocab"] if t not in names), key=document["model"]["vocab"].get)
    document["model"]["vocab"] = {token: index for index, token in enumerate(pieces)}
    for offset, token in enumerate(special):
        token["id"] = len(pieces) + offset
    grown = expand(document, Growth(40), UKRAINIAN)
    assert grown.base.token_to_id(names[0]) == len(pieces)
    assert [grown.tokenizer.token_to_id(name) for name in names] == [token["id"] for token in special]
    assert grown.ids[0] == size
    text = f"{names[0]}Число{names[-1]}"
    assert grown.tokenizer.encode(text).ids[0] == len(pieces)


def test_ignore_merges_of_llama_3(base):
    """A word that is a piece is emitted whole, reachable by merges or not; learning sees what the model sees."""
    document = json.loads(json.dumps(base))
    document["model"]["ignore_merges"] = True
    whole = "".join(token for token in ["Ð§", "Ð¸", "Ñģ", "Ð»", "Ð¾"])
    document["model"]["vocab"][whole] = first_free_id(document)
    grown = expand(document, Growth(60), UKRAINIAN)
    assert grown.document["model"]["ignore_merges"] is True
    assert grown.tokenizer.encode("Число").ids == grown.base.encode("Число").ids == [len(base["model"]["vocab"])]
    for text in (*UKRAINIAN, *ENGLISH):
        check_segmentation(grown.base, grown.tokenizer, grown.pieces, [text])


def test_words_are_cut_outside_of_added_tokens(base):
    words = count_words(core_of(base), ["кіт<|user|>кіт кіт"])
    assert sum(words.values()) == 3
    assert not any("user" in word for word in words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "it is a WordPiece tokenizer"),
        ({"model": {"type": "Unigram", "vocab": []}}, "it is a Unigram tokenizer"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "SentencePiece"),
        ({"model": {"type": "BPE", "dropout": 0.1}}, "dropout 0.1"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}, "beginning or end of words"),
    ],
)
def test_other_tokenizers_are_refused(base, change, message):
    with pytest.raises(AdaptError, match=message) as error:
        expand(base | change, Growth(10), UKRAINIAN, name="some/model")
    assert "some/model" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_corpus_with_nothing_to_learn_is_refused(base):
    with pytest.raises(AdaptError, match="saves 50 tokens or more"):
        expand(base, Growth(10, min_frequency=50), ["один два"])


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"text": "a"}, "a"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a\nb"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "a\nb"),
        ({"messages": [{"role": "assistant", "content": None}]}, ""),
    ],
)
def test_text_of(document, text):
    assert text_of(document) == text


def test_up_to():
    assert list(up_to(["аб", "вг", "де"], 5)) == ["аб", "вг"]
    assert list(up_to(["аб", "вг"], None)) == ["аб", "вг"]
