"""`mode: replace` and `mode: tokens`, `add: auto`, `prune` and padding, through the stage, on real checkpoints."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2Config

from adapt.checkpoints import ModelLocation
from adapt.data.sources import Files
from adapt.display import Display
from adapt.errors import AdaptError
from adapt.log import Log
from adapt.stages.base import StageContext
from adapt.stages.expand_vocabulary import ExpandVocabulary
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN, make_model, make_tokenizer
from tests.stages.test_expand_vocabulary import qwen_tokenizer
from tests.vocabulary.sentencepieces import document_of, trained

MATRICES = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    written = {
        "target": [f"{line} {rank}" for rank, line in enumerate(UKRAINIAN * 3)],
        "general": [f"{line} {rank}" for rank, line in enumerate(ENGLISH * 3)],
        "terms": ["понеділок", "Париж", " євро"],
    }
    found = {}
    for name, lines in written.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        found[name] = Files(files=str(folder / f"{name}.txt"), held_out=0.2)
    return found


@pytest.fixture
def run(tmp_path, sources):
    """Run a stage and return its metrics, its folder and what was printed."""

    def _run(model: Path, **settings):
        screen = io.StringIO()
        folder = tmp_path / "grown"
        folder.mkdir(exist_ok=True)
        stage = ExpandVocabulary(**({"kind": "expand_vocabulary", "model": "base", "corpus": "target"} | settings))
        context = StageContext(
            recipe="test",
            stage="grown",
            seed=17,
            folder=folder,
            cache=tmp_path / "cache",
            models={"base": ModelLocation(str(model))},
            sources=sources,
            display=Display(Console(file=screen, width=200)),
            log=Log(folder / "log.jsonl"),
        )
        return stage.run(context), folder, screen.getvalue()

    return _run


@pytest.fixture
def chatty(tmp_path) -> Path:
    """A model whose special tokens stand behind the vocabulary, named in all the places where a model names ids."""
    source = tmp_path / "chatty"
    tokenizer = make_tokenizer(ENGLISH)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>", "additional_special_tokens": ["<|tool|>"]})
    begin, tool = tokenizer.convert_tokens_to_ids(["<|begin|>", "<|tool|>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    tokenizer.save_pretrained(source)
    model = make_model(len(tokenizer) + 7)
    model.config.bos_token_id = begin
    model.config.eos_token_id = [0, tool]
    model.generation_config = GenerationConfig(bos_token_id=begin, eos_token_id=[0, tool], pad_token_id=1)
    model.save_pretrained(source)
    return source


def rows_by_token(folder: Path) -> dict[str, list[torch.Tensor]]:
    weights, tokenizer = load_file(folder / "model.safetensors"), AutoTokenizer.from_pretrained(folder)
    matrices = [weights[name] for name in MATRICES if name in weights]
    return {token: [matrix[index] for matrix in matrices] for token, index in tokenizer.get_vocab().items()}


def assert_kept_rows_are_the_same(before: Path, after: Path, new: list[str]) -> None:
    old = rows_by_token(before)
    for token, rows in rows_by_token(after).items():
        if token not in new:
            assert all(map(torch.equal, rows, old[token])), token


def vocabulary_of(folder: Path) -> dict:
    return json.loads((folder / "model" / "adapt_vocabulary.json").read_text(encoding="utf-8"))


def assert_consistent(base: Path, folder: Path) -> None:
    """`adapt_vocabulary.json` tells of the written tokenizer and model what is so."""
    vocabulary, old = vocabulary_of(folder), AutoTokenizer.from_pretrained(base)
    new = AutoTokenizer.from_pretrained(folder / "model")
    assert new.convert_ids_to_tokens(vocabulary["new_ids"]) == vocabulary["new_tokens"]
    assert set(vocabulary["new_tokens"]) == set(new.get_vocab()) - set(old.get_vocab())
    for token, pair in zip(vocabulary["new_tokens"], vocabulary["merges"], strict=True):
        assert pair is None or "".join(new.convert_ids_to_tokens(pair)) == token
        assert "".join(old.convert_ids_to_tokens(vocabulary["pieces"][token])) == token
    if "old_ids" in vocabulary:
        assert set(vocabulary["removed"]) == set(old.get_vocab()) - set(new.get_vocab())
        assert len(vocabulary["old_ids"]) == len(new) == vocabulary["new_size"]
        for index, former in enumerate(vocabulary["old_ids"]):
            if former is None:
                assert index in vocabulary["new_ids"]
            else:
                assert old.convert_ids_to_tokens(former) == new.convert_ids_to_tokens(index)


def test_replace(run, chatty):
    metrics, folder, screen = run(chatty, mode="replace", size=450, general="general")
    old, new = AutoTokenizer.from_pretrained(chatty), AutoTokenizer.from_pretrained(folder / "model")
    assert metrics["new_size"] == len(new) == metrics["rows"] == 450
    assert metrics["added"] + metrics["kept"] == 450
    assert metrics["kept"] + metrics["removed"] == len(old)
    assert metrics["unreachable"] == 0
    assert metrics["after"]["bytes_per_token"] > 1.5 * metrics["before"]["bytes_per_token"]
    assert "taken out: fertility" in screen
    assert_consistent(chatty, folder)
    assert_kept_rows_are_the_same(chatty, folder / "model", vocabulary_of(folder)["new_tokens"])
    assert new.special_tokens_map == old.special_tokens_map
    assert new.chat_template == CHAT_TEMPLATE
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    for text in (*UKRAINIAN[:5], *ENGLISH[:5], "汉字 و😀\n\t 12<|tool|>"):
        assert new(text)["input_ids"] == raw.encode(text).ids
        assert new.decode(new(text, add_special_tokens=False)["input_ids"]) == text


def test_replace_follows_the_ids_of_special_tokens(run, chatty):
    _, folder, _ = run(chatty, mode="replace", size=300)
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    begin, tool = new.convert_tokens_to_ids(["<|begin|>", "<|tool|>"])
    assert begin < 300
    assert tool < 300
    for settings in (model.config, model.generation_config):
        assert settings.bos_token_id == begin
        assert settings.eos_token_id == [0, tool]
    assert model.generation_config.pad_token_id == 1
    assert new("a")["input_ids"][0] == begin
    assert model.generate(**new("День", return_tensors="pt"), max_new_tokens=3, do_sample=False).shape[1] > 3


def test_what_a_replaced_vocabulary_keeps_has_its_old_logits(run, tiny_model_folder, tmp_path, sources):
    """Kept tokens have their old logits among each other, under their new ids."""
    english = tmp_path / "english.txt"
    english.write_text("\n".join(ENGLISH), encoding="utf-8")
    sources["english"] = Files(files=str(english), held_out=0.2)
    old, model = (kind.from_pretrained(tiny_model_folder) for kind in (AutoTokenizer, AutoModelForCausalLM))
    metrics, folder, _ = run(tiny_model_folder, mode="replace", size=len(old), corpus="english")
    new, after = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    text = ENGLISH[0]
    ids, moved = old(text)["input_ids"], new(text)["input_ids"]
    shared = [token for token in old.convert_ids_to_tokens(ids) if token in new.get_vocab()]
    assert metrics["kept"] > 350
    assert len(shared) > 5
    rows = [new.get_vocab()[token] for token in shared]
    with torch.inference_mode():
        expected = model(torch.tensor([old.convert_tokens_to_ids(shared)])).logits
        found = after(torch.tensor([rows])).logits
    kept = [(old.get_vocab()[token], index) for token, index in new.get_vocab().items() if token in old.get_vocab()]
    was, now = map(list, zip(*kept, strict=True))
    assert torch.equal(found[..., now], expected[..., was])
    assert new.decode(moved) == text


def test_tokens(run, tiny_model_folder):
    wanted = ["понеділок", "Париж", " Відповідь"]
    metrics, folder, _ = run(tiny_model_folder, mode="tokens", tokens=wanted)
    base, new = AutoTokenizer.from_pretrained(tiny_model_folder), AutoTokenizer.from_pretrained(folder / "model")
    assert_consistent(tiny_model_folder, folder)
    assert_kept_rows_are_the_same(tiny_model_folder, folder / "model", vocabulary_of(folder)["new_tokens"])
    for word in (*wanted, " понеділок", " Париж"):
        assert len(new(word)["input_ids"]) == 1, word
    for text in ENGLISH[:5]:
        assert new(text)["input_ids"] == base(text)["input_ids"]
    assert metrics["skipped"] == {}
    assert metrics["added"] - metrics["steps_only"] == 5
    assert not new.added_tokens_decoder.keys() - base.added_tokens_decoder.keys()


def test_tokens_from_a_source(run, tiny_model_folder):
    _, folder, _ = run(tiny_model_folder, mode="tokens", tokens="terms")
    new = AutoTokenizer.from_pretrained(folder / "model")
    assert all(len(new(word)["input_ids"]) == 1 for word in ("понеділок", "Париж", " євро"))


def test_special_tokens(run, tiny_model_folder):
    metrics, folder, screen = run(tiny_model_folder, mode="tokens", tokens=["<|call|>", "<|end|>"], special=True)
    base, new = AutoTokenizer.from_pretrained(tiny_model_folder), AutoTokenizer.from_pretrained(folder / "model")
    index = new.convert_tokens_to_ids("<|call|>")
    assert index == len(base)
    assert new("a<|call|>b")["input_ids"] == [*base("a")["input_ids"], index, *base("b")["input_ids"]]
    assert new.decode([index], skip_special_tokens=True) == ""
    assert metrics["added"] == 1
    assert "'<|end|>' was not added: a token already" in screen
    assert_consistent(tiny_model_folder, folder)


def test_prune_unused(run, chatty):
    """English pieces that the Ukrainian corpus never uses go; what is left cuts text as before."""
    metrics, folder, screen = run(chatty, add=30, prune="unused")
    assert metrics["removed"] > 50
    assert f"{metrics['removed']} taken out" in screen
    assert metrics["rows"] == metrics["new_size"] == metrics["base_size"] + 30 - metrics["removed"]
    assert metrics["step0"]["target"]["after"] > 0
    assert_consistent(chatty, folder)
    assert_kept_rows_are_the_same(chatty, folder / "model", vocabulary_of(folder)["new_tokens"])
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert model.generation_config.eos_token_id == new.convert_tokens_to_ids(["<|endoftext|>", "<|tool|>"])
    whole = run(chatty, add=30)[1]
    unpruned = AutoTokenizer.from_pretrained(whole / "model")
    for text in UKRAINIAN[:5]:
        assert new.convert_ids_to_tokens(new(text)["input_ids"]) == unpruned.convert_ids_to_tokens(
            unpruned(text)["input_ids"]
        )
    for text in ENGLISH[:5]:
        assert new.decode(new(text)["input_ids"], skip_special_tokens=True) == text


def test_pruned_text_has_the_logits_it_had(run, chatty):
    _, folder, _ = run(chatty, add=30, prune="unused", init="mean_of_pieces")
    pruned, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    kept = vocabulary_of(folder)["old_ids"]
    ids = tokenizer(UKRAINIAN[0])["input_ids"]
    shutil.rmtree(folder / "model")
    _, folder, _ = run(chatty, add=30, init="mean_of_pieces")
    whole, before = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    same = before(UKRAINIAN[0])["input_ids"]
    new = iter(vocabulary_of(folder)["new_ids"])
    rows = [next(new) if former is None else former for former in kept]
    assert [rows[index] for index in ids] == same
    with torch.inference_mode():
        found, expected = (model(torch.tensor([row])).logits for model, row in ((pruned, ids), (whole, same)))
    assert torch.equal(found, expected[..., rows])


@pytest.mark.parametrize(("amount", "removed"), [(7, 7), (0.05, 19)])
def test_prune_by_number_and_share(run, tiny_model_folder, amount, removed):
    metrics, folder, _ = run(tiny_model_folder, add=10, prune=amount)
    assert metrics["removed"] == removed
    assert_consistent(tiny_model_folder, folder)


def test_padding(run, tiny_model_folder):
    base = AutoTokenizer.from_pretrained(tiny_model_folder)
    metrics, folder, _ = run(tiny_model_folder, add=10, pad_to_multiple_of=64)
    used = len(base) + 10
    assert metrics["rows"] == 448 > used
    weights = load_file(folder / "model" / "model.safetensors")
    old = load_file(tiny_model_folder / "model.safetensors")
    ordinary = [index for token, index in base.get_vocab().items() if index not in base.added_tokens_decoder]
    for name in MATRICES:
        assert torch.equal(weights[name][: len(base)], old[name])
        for row in weights[name][used:]:
            torch.testing.assert_close(row, old[name][ordinary].mean(0))
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.vocab_size == 448


def test_a_tied_model_is_pruned_and_padded(run, tmp_path, tiny_model_folder):
    source = tmp_path / "tied"
    shutil.copytree(tiny_model_folder, source)
    make_model(len(AutoTokenizer.from_pretrained(source)) + 10, tied=True).to(torch.bfloat16).save_pretrained(source)
    metrics, folder, _ = run(source, add=5, prune="unused", pad_to_multiple_of=8)
    assert metrics["rows"] % 8 == 0
    weights = load_file(folder / "model" / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert weights["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert_kept_rows_are_the_same(source, folder / "model", vocabulary_of(folder)["new_tokens"])


def test_the_size_chosen_by_itself(run, tiny_model_folder):
    metrics, folder, screen = run(tiny_model_folder, add="auto")
    assert metrics["auto"]["size"] == metrics["added"]
    assert metrics["auto"]["reason"] == "the corpus has no more"
    assert f"{metrics['added']} pieces chosen: the corpus has no more" in screen
    assert_consistent(tiny_model_folder, folder)


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({}, (), "lacks the key 'add' (how many pieces to add, or auto)"),
        ({"mode": "replace"}, (), "lacks the key 'size' (how many tokens the new vocabulary has"),
        ({"mode": "tokens", "tokens": ["a"], "add": 3}, ("add",), "'add' belongs to mode: expand, and this stage"),
        ({"add": 3, "special": True}, ("special",), "'special' belongs to mode: tokens, and this stage has"),
        ({"add": 3, "saving": "5%"}, ("saving",), "'saving' decides on the size with add: auto"),
        ({"mode": "replace", "size": 500, "general_share": 0.1}, ("general_share",), "'general_share' is a share of"),
        ({"mode": "tokens", "tokens": ["a"], "min_frequency": 5}, ("min_frequency",), "'min_frequency' belongs to"),
    ],
)
def test_keys_that_do_not_fit_the_mode(settings, place, message):
    stage = ExpandVocabulary(**({"kind": "expand_vocabulary", "model": "m", "corpus": "a"} | settings))
    (complaint,) = stage.complaints({})
    assert complaint.path == place
    assert complaint.message.startswith(message)


def test_mistakes_that_only_a_run_shows(run, tiny_model_folder):
    with pytest.raises(AdaptError, match=r"a vocabulary of 200 cannot replace .*: 256 bytes and 6 special tokens"):
        run(tiny_model_folder, mode="replace", size=200)
    with pytest.raises(AdaptError, match=r"'сорок п.ять' cannot become one piece: .* and this into 'сорок' and ' п'"):
        run(tiny_model_folder, mode="tokens", tokens=["сорок п'ять"])
    with pytest.raises(AdaptError, match=r"none of the 1 tokens can be added to .*; ' the': a piece already"):
        run(tiny_model_folder, mode="tokens", tokens=[" the"])
    with pytest.raises(AdaptError, match="expand_vocabulary: 'size' belongs to mode: replace"):
        run(tiny_model_folder, add=5, size=400)


def test_settings_that_name_sources_and_numbers():
    settings = {"kind": "expand_vocabulary", "model": "m", "corpus": "a"}
    stage = ExpandVocabulary(**settings, mode="tokens", tokens="terms", prune="20%")
    assert stage.prune == 0.2
    assert [(reference.path, reference.name) for reference in stage.reads().sources][1:] == [(("tokens",), "terms")]
    assert ExpandVocabulary(**settings, add="auto", prune="2k").prune == 2000
    assert ExpandVocabulary(**settings, mode="tokens", tokens=["terms"]).reads().sources[1:] == ()
    for wrong in ({"prune": 0}, {"prune": "all"}, {"tokens": []}, {"tokens": [""]}, {"mode": "shrink"}):
        with pytest.raises(ValueError, match="ExpandVocabulary"):
            ExpandVocabulary(**settings, **wrong)


@pytest.mark.parametrize("settings", [{"mode": "replace", "size": 420}, {"add": 30, "prune": "unused"}], ids=str)
def test_a_family_whose_loader_rebuilds_the_tokenizer(run, tmp_path, settings):
    source, tokenizer = tmp_path / "qwen", qwen_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = tokenizer.eos_token_id
    config = Qwen2Config(vocab_size=len(tokenizer) + 30, num_key_value_heads=2, bos_token_id=None, **size)
    config.eos_token_id = end
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    metrics, folder, _ = run(source, **settings)
    assert metrics["removed"] > 0
    assert_kept_rows_are_the_same(source, folder / "model", vocabulary_of(folder)["new_tokens"])
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    new, model = (kind.from_pretrained(folder / "model") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert model.config.eos_token_id == new.eos_token_id == raw.token_to_id("<|endoftext|>") != end
    for text in (*UKRAINIAN[:5], "a<|im_start|>b<|im_end|>"):
        assert new(text)["input_ids"] == raw.encode(text).ids
        assert new.decode(raw.encode(text).ids) == text


@pytest.fixture
def llama(tmp_path) -> Path:
    """A model with a SentencePiece tokenizer, published as Llama-2 was: with its `tokenizer.model`."""
    source, content = tmp_path / "llama", trained(ENGLISH)
    document = document_of(content)
    make_model(len(document["model"]["vocab"])).save_pretrained(source)
    (source / "tokenizer.model").write_bytes(content)
    (source / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return source


@pytest.mark.parametrize(
    "settings",
    [{"add": 40}, {"add": 40, "prune": "unused"}, {"mode": "tokens", "tokens": ["субота", "Париж"], "prune": 30}],
    ids=["expand", "expand and prune", "tokens and prune"],
)
def test_sentencepiece(run, llama, settings):
    metrics, folder, _ = run(llama, **settings)
    assert (metrics["removed"] > 0) == ("prune" in settings)
    assert_kept_rows_are_the_same(llama, folder / "model", vocabulary_of(folder)["new_tokens"])
    raw = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    slow = SentencePieceProcessor(model_file=str(folder / "model" / "tokenizer.model"))
    assert slow.vocab_size() == metrics["new_size"] == raw.get_vocab_size()
    loaded = AutoTokenizer.from_pretrained(folder / "model")
    for text in (*UKRAINIAN[:5], *ENGLISH[:5]):
        ids = raw.encode(text, add_special_tokens=False).ids
        assert slow.encode(text) == ids == loaded(text, add_special_tokens=False)["input_ids"]
        assert slow.decode(ids) == text


def test_sentencepiece_is_not_replaced(run, llama):
    with pytest.raises(AdaptError, match=r"cannot replace the vocabulary of '.*': it is SentencePiece"):
        run(llama, mode="replace", size=500)
