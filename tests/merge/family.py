"""A base, its instruct model and its continued pre-training with a grown vocabulary, as tiny checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from adapt.vocabulary.expansion import Growth, expand
from tests.conftest import CHAT_TEMPLATE, ENGLISH, UKRAINIAN, make_model, make_tokenizer

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
GROWN = 20


def nudge(model, seed: int, size: float = 0.01):
    """Add noise to every weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def save(folder: Path, model, tokenizer, document: dict | None = None) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if document is not None:
        (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return folder


def grown_document(tokenizer) -> dict:
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    return expand(document, Growth(GROWN), UKRAINIAN).document


def plain_tokenizer(template: str | None = None):
    tokenizer = make_tokenizer(ENGLISH)
    tokenizer.chat_template = template
    return tokenizer


def chatml_tokenizer():
    """The base's tokenizer with two chat tokens behind it, one of which ends an answer."""
    tokenizer = plain_tokenizer(CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@dataclass
class Family:
    """Folders by name."""

    folders: dict[str, Path]

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folders[name] / "model.safetensors")


def make_family(root: Path, tied: bool = False) -> Family:
    """`base`, `instruct` (same tokens, a template), `chatml` (two more tokens), `cpt` (20 more pieces).

    `cpt` uses the ids 384 and 385 for pieces, `chatml` uses them for chat tokens.
    """
    size = 384
    tokenizer = plain_tokenizer()
    base = make_model(size, tied)
    folders = {"base": save(root / "base", base, tokenizer)}
    instruct = nudge(make_model(size, tied), 1)
    folders["instruct"] = save(root / "instruct", instruct, plain_tokenizer(CHAT_TEMPLATE))
    chatml = nudge(make_model(size, tied), 3)
    chatml.resize_token_embeddings(size + 2)
    chatml.config.eos_token_id = chatml.generation_config.eos_token_id = size + 1
    chatml.generation_config.max_new_tokens = 77
    folders["chatml"] = save(root / "chatml", nudge(chatml, 4), chatml_tokenizer())
    cpt = nudge(make_model(size, tied), 2)
    cpt.resize_token_embeddings(size + GROWN)
    folders["cpt"] = save(root / "cpt", nudge(cpt, 5), tokenizer, grown_document(tokenizer))
    return Family(folders)
