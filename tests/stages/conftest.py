"""Fixtures of the tests that change a vocabulary: text, a model with special tokens, and a stage that is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from adapt.data.sources import Files
from adapt.stages.expand_vocabulary import ExpandVocabulary
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer
from tests.stages.workshop import context


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Sources of plain text, by name."""
    folder = tmp_path_factory.mktemp("sources")
    written = {
        "target": [f"{line} {rank}" for rank, line in enumerate(UKRAINIAN * 3)],
        "general": [f"{line} {rank}" for rank, line in enumerate(ENGLISH * 3)],
        "terms": ["понеділок", "Париж", " євро"],
        "one": ["єдиний рядок"],
    }
    found = {}
    for name, lines in written.items():
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        found[name] = Files(files=str(folder / f"{name}.txt"), held_out=0 if name == "one" else 0.2)
    return found


@pytest.fixture
def grow(tmp_path, texts):
    """Run a stage that changes a vocabulary; returns its metrics, its folder and what was printed.

    New rows are means unless told otherwise: the default, which trains the model, takes seconds.
    """
    usual = {"kind": "expand_vocabulary", "model": "base", "corpus": "target", "init": "mean_of_pieces"}

    def _grow(model: Path, **settings):
        stage = ExpandVocabulary(**(usual | settings))
        made = context(tmp_path / "grown", model, texts, stage="grown", seed=17)
        return stage.run(made), made.folder, made.display.text.getvalue()

    return _grow


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
