"""The invariants I1 to I7 on published tokenizers: Mistral's SentencePiece model and a tekken with 131,072 pieces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.checkpoints import ModelLocation
from adapt.vocabulary.expansion import Growth, expand
from adapt.vocabulary.invariants import PROBES, check_loader, check_segmentation
from adapt.vocabulary.sentencepiece_model import extended
from adapt.vocabulary.splice import write_tokenizer
from tests.conftest import ENGLISH
from tests.vocabulary.sentencepieces import document_of, processor

pytest.importorskip("mistral_common", reason="published vocabularies come from the package mistral-common")

MODEL, TEKKEN = "tokenizer.model.v1", "tekken_240911.json"
ADD = 300


def published_file(name: str) -> Path:
    import mistral_common

    path = Path(mistral_common.__file__).parent / "data" / name
    if not path.exists():
        pytest.skip(f"this release of mistral-common has no {name}")
    return path


def tekken_document(folder: Path) -> dict:
    """A tekken as `tokenizer.json`, by the converter of transformers; ids of special tokens get names of their own."""
    from transformers.integrations.mistral.tokenizer import MistralConverter

    raw = json.loads(published_file(TEKKEN).read_text(encoding="utf-8"))
    raw["special_tokens"] = [
        {"rank": rank, "token_str": f"<SPECIAL_{rank}>"} for rank in range(raw["config"]["default_num_special_tokens"])
    ]
    (folder / "tekken.json").write_text(json.dumps(raw), encoding="utf-8")
    return json.loads(MistralConverter(str(folder / "tekken.json")).converted().to_str())


def numbers(language: str, step: int) -> list[str]:
    from num2words import num2words

    return [f"{number}: {num2words(number, lang=language)}." for number in range(1, 9000, step)]


CORPUS = [*numbers("uk", 17), *numbers("hu", 17), "नमस्ते दुनिया, यह हिन्दी है। ᚠᛇᚻ᛫ᛒᛦᚦ " * 20]
HELD_OUT = [*numbers("uk", 67), *numbers("hu", 67), "यह दुनिया हिन्दी ᚠᛇᚻ᛫ᛒᛦᚦ"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module", params=["sentencepiece", pytest.param("tekken", marks=pytest.mark.slow)])
def grown(request, folder):
    content = published_file(MODEL).read_bytes() if request.param == "sentencepiece" else None
    document = tekken_document(folder) if content is None else document_of(content)
    return expand(document, Growth(ADD, drop_unused=True), CORPUS, HELD_OUT)


def is_tekken(grown) -> bool:
    return grown.base.get_vocab_size() > 100_000


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def check(grown, text: str) -> None:
    """I2 (and with it I3 and I7) and I5."""
    check_segmentation(grown.base, grown.tokenizer, grown.pieces, [text])
    ids = encode(grown.tokenizer, text)
    assert grown.tokenizer.decode(ids) == (text if is_tekken(grown) else text.replace("▁", " "))


def test_old_tokens_keep_their_ids_and_new_ones_follow(grown):
    old, new = grown.base.get_vocab(), grown.tokenizer.get_vocab()
    assert len(old) == (131_072 if is_tekken(grown) else 32_000)
    assert old.items() <= new.items()
    assert grown.ids == list(range(len(old), len(new)))
    assert 100 < len(grown.ids) <= ADD


def test_text_without_new_pieces_keeps_its_ids(grown):
    for text in ENGLISH:
        assert encode(grown.tokenizer, text) == encode(grown.base, text)


def test_every_block_of_unicode_comes_back(grown):
    """Some code points of each of the 4,352 rows of 256, unassigned ones as well, alone and beside letters."""
    for plane in range(0, 0x110000, 0x1000):
        rows = range(plane, plane + 0x1000, 0x100)
        points = [row + place for row in rows for place in (0x00, 0x01, 0x3B, 0x7F, 0xA0, 0xFF)]
        characters = [chr(point) for point in points if not 0xD800 <= point <= 0xDFFF]
        check(grown, "x" + " ф".join(characters))
        check(grown, "x" + "".join(characters))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=40) | st.lists(st.sampled_from([*HELD_OUT, *PROBES]), max_size=3).map(" ".join))
def test_any_text_comes_back(grown, text):
    if "<" not in text:  # names of special tokens
        check(grown, text.lstrip() if not is_tekken(grown) else text)


def test_every_new_piece_occurs_in_held_out_text_or_is_a_step_of_one_that_does(grown):
    seen = {index for text in HELD_OUT for index in encode(grown.tokenizer, text)}
    for piece in reversed(grown.pieces):
        assert piece.id in seen
        seen.update(piece.made_of)


def test_every_new_piece_is_cut_as_itself(grown):
    for piece in grown.pieces:
        assert [token.id for token in grown.tokenizer.model.tokenize(piece.string)] == [piece.id]


def test_saved_and_loaded_in_the_usual_ways(grown, folder):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    old, new = folder / "old", folder / f"new-{len(grown.ids)}"
    old.mkdir(exist_ok=True)
    if not is_tekken(grown):
        (old / "tokenizer.model").write_bytes(published_file(MODEL).read_bytes())
    write_tokenizer(PreTrainedTokenizerFast(tokenizer_object=grown.base), grown.document, new, ModelLocation(str(old)))
    check_loader(AutoTokenizer.from_pretrained(new), grown.tokenizer, (*PROBES, *HELD_OUT))
    from_file = Tokenizer.from_file(str(new / "tokenizer.json"))
    for text in (*PROBES, *HELD_OUT):
        assert encode(from_file, text) == encode(grown.tokenizer, text)
    assert (new / "tokenizer.model").exists() != is_tekken(grown)


def test_the_published_libraries_give_the_same_ids(grown):
    """Slow and fast: SentencePiece with the extended model; for tekken, the base by Mistral's own library."""
    texts = [*HELD_OUT, *ENGLISH, *PROBES]
    if is_tekken(grown):
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        slow = Tekkenizer.from_file(str(published_file(TEKKEN)))
        assert all(slow.encode(text, bos=False, eos=False) == encode(grown.base, text) for text in texts)
        return
    content = published_file(MODEL).read_bytes()
    before, slow = processor(content), processor(extended(content, grown.document, MODEL))
    for text in (*texts, "  two spaces", "▁", "a" * 50, " ".join(chr(point) for point in range(0x20, 0x3000, 7))):
        assert before.encode(text) == encode(grown.base, text)
        assert slow.encode(text) == encode(grown.tokenizer, text)
