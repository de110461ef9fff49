"""What the tests of stages share: a context on the spot, sources of text, and what a vocabulary must keep."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from adapt.checkpoints import ModelLocation
from adapt.data.sources import Files
from adapt.display import Display
from adapt.log import Log
from adapt.stages.base import StageContext
from tests.conftest import ENGLISH

MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def context(folder: Path, base: Path, sources, stage: str = "cpt", **others) -> StageContext:
    """A context whose display writes to `display.text`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    made = StageContext(
        recipe="test",
        stage=stage,
        seed=others.pop("seed", 5),
        folder=folder,
        cache=folder.parent / "cache",
        models={"base": ModelLocation(str(base))},
        sources=sources,
        display=Display(Console(file=text, width=200)),
        log=Log(folder / "log.jsonl"),
        **others,
    )
    made.display.text = text
    return made


def json_sources(folder: Path, documents) -> dict:
    """For each name a source of these documents, a fifth of them held out."""
    for name, found in documents.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    return {name: Files(files=str(folder / f"{name}.jsonl"), held_out=0.2) for name in documents}


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        ENGLISH, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core)
    fast.add_special_tokens({"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return fast


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
