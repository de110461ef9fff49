"""Adapters as train stages leave them, for the export's tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from adapt.checkpoints import ModelLocation
from adapt.display import Display
from adapt.export.source import Source, source_of
from adapt.methods.base import Method
from adapt.methods.lora import Lora
from adapt.methods.qlora import Qlora
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer
from tests.training.workshop import finished, make_run
from tests.vocabulary.sentencepieces import document_of, trained

METHODS = {
    "lora": Lora(r=4),
    "rslora-dora": Lora(r=4, rslora=True, alpha=6, dora=True, targets=("q_proj", "down_proj")),
    "qlora": Qlora(r=4, train_embeddings="new_rows"),
    "qlora-dora": Qlora(r=4, dora=True),
    "pissa": Qlora(r=4, init="pissa"),
}
NEW = 12


@pytest.fixture(scope="session")
def grown(tmp_path_factory) -> Path:
    """A tied tiny Llama whose last rows are those of new pieces, and ten rows of padding."""
    folder = tmp_path_factory.mktemp("grown")
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer) + 10, tied=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    new = list(range(len(tokenizer) - NEW, len(tokenizer)))
    (folder / "adapt_vocabulary.json").write_text(json.dumps({"new_ids": new}))
    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory, grown) -> dict[str, Path]:
    """Folders of finished train stages, by the method's name; they are made when they are first asked for."""
    return _Stages(grown, tmp_path_factory.mktemp("stages"))


class _Stages(dict):
    def __init__(self, base: Path, home: Path) -> None:
        self.base, self.home = base, home

    def __missing__(self, name: str) -> Path:
        self[name] = train(METHODS[name], self.base, self.home / name)
        return self[name]


def train(method: Method, base: Path, folder: Path) -> Path:
    """A train stage's folder: model, adapter, manifest."""
    run = make_run(base, folder, method, steps=3, evaluations=1)
    run.execute()
    method.save(finished(run, base), folder)
    settings = {"method": method.model_dump(mode="json"), "precision": "fp32"}
    (folder / "manifest.json").write_text(json.dumps({"settings": settings}))
    return folder


def sentencepiece_model(folder: Path, rows: int = 410) -> Path:
    """A checkpoint of random weights with a SentencePiece tokenizer of 400 pieces, as files of Llama 2 are."""
    from transformers import PreTrainedTokenizerFast

    content = trained([*ENGLISH, *UKRAINIAN])
    (folder / "document.json").write_text(json.dumps(document_of(content)))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "document.json"), **names).save_pretrained(folder)
    (folder / "document.json").unlink()
    make_model(rows).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(content)
    return folder


def source(folder: Path) -> Source:
    return source_of("cpt", ModelLocation(str(folder / "model")), folder)


@pytest.fixture
def display() -> Display:
    return Display(Console(file=io.StringIO(), width=200))
