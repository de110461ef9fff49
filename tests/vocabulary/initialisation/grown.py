"""An English tokenizer grown for Ukrainian, a model under it, and settings for every initialisation in the table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from adapt.vocabulary.evidence import Evidence
from adapt.vocabulary.expansion import Growth, expand
from adapt.vocabulary.rows import grow, ordinary_rows
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer

PADDING = 24
"""Rows of the old matrix that belong to no token; the new pieces begin on them."""
ADDED = 40


@dataclass(frozen=True)
class Grown:
    """Both tokenizers, the new ids, and what each is made of."""

    old: PreTrainedTokenizerFast
    new: PreTrainedTokenizerFast
    ids: list[int]
    parts: list[tuple[int, ...]]

    @property
    def height(self) -> int:
        return len(self.old) + PADDING

    @property
    def ordinary(self) -> torch.Tensor:
        return ordinary_rows(self.old, self.height)

    def model(self, tied: bool = False, seed: int = 0, **changes: Any):
        """A model on which bits per byte can be told apart: its rows are far larger than at a usual start."""
        model = make_model(self.height, tied=tied, seed=seed, **changes)
        for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
            module.weight.data.mul_(10)
        return model

    def evidence(self, model, texts=UKRAINIAN, held_out=None, **changes: Any) -> Evidence:
        texts = list(texts)
        held_out = {"target": UKRAINIAN[:5], "general": ENGLISH[:5]} if held_out is None else held_out
        return Evidence(model, self.old, self.new, lambda: iter(texts), held_out, **({"general": "general"} | changes))

    def grow(self, init, tied: bool = False, seed: int = 0, model=None, evidence=None):
        """The grown model and what `grow` reports."""
        model = self.model(tied) if model is None else model
        evidence = self.evidence(model) if evidence is None else evidence
        return model, grow(model, self.ids, self.parts, self.ordinary, init, seed, evidence)


@cache
def case() -> Grown:
    old = make_tokenizer(ENGLISH)
    grown = expand(json.loads(old.backend_tokenizer.to_str()), Growth(ADDED), UKRAINIAN)
    new = PreTrainedTokenizerFast(tokenizer_object=grown.tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>")
    return Grown(old, new, grown.ids, grown.parts)


def settings(folder: Path) -> dict[str, Any]:
    """Every method by a name for the test, with the files that some need."""
    words = {word for line in ENGLISH + UKRAINIAN for word in line.split()}
    draw = np.random.default_rng(0)
    vectors = [f"{word} {' '.join(f'{x:.4f}' for x in draw.standard_normal(8))}" for word in sorted(words)]
    (folder / "all.vec").write_text(f"{len(vectors)} 8\n" + "\n".join(vectors) + "\n", encoding="utf-8")
    (folder / "en.txt").write_text("\n".join(ENGLISH), encoding="utf-8")
    (folder / "uk.txt").write_text("\n".join(UKRAINIAN), encoding="utf-8")
    donor = make_tokenizer(UKRAINIAN)
    make_model(len(donor), seed=3).save_pretrained(folder / "donor")
    donor.save_pretrained(folder / "donor")
    vec, pieces = str(folder / "all.vec"), "mean_of_pieces"
    return {
        "mean": "mean",
        "mean with noise": {"method": "mean", "noise": 0.1},
        "random": "random",
        "random with std": {"method": "random", "std": 0.02},
        "gaussian": {"method": "gaussian", "scale": 1},
        **{f"pieces, {kind}": {"method": pieces, "weights": kind} for kind in ("equal", "bytes", "last", "first")},
        "pieces, exponential": {"method": pieces, "weights": "exponential"},
        "convex_hull": "convex_hull",
        "last_first": "last_first",
        "last_first, no prior": {"method": "last_first", "input": "exponential", "prior": False},
        "cw2v": {"method": "cw2v", "rank": 8, "epochs": 1},
        "focus": {"method": "focus", "dimension": 8, "epochs": 1, "min_count": 1, "without_vector": pieces},
        "wechsel": {"method": "wechsel", "source_vectors": vec, "target_vectors": vec, "without_vector": pieces},
        "ofa": {"method": "ofa", "vectors": vec, "without_vector": pieces},
        "omp": {"method": "omp", "donor": str(folder / "donor"), "tokens": 4},
        "align": {
            "method": "align",
            "source": str(folder / "en.txt"),
            "target": str(folder / "uk.txt"),
            "iterations": 2,
            "min_count": 2,
        },
        "auto": "auto",
        "distil": {"method": "distil", "steps": 3, "batch": 2, "start": "convex_hull"},
    }


CONVEX = [
    "mean",
    *(f"pieces, {kind}" for kind in ("equal", "bytes", "last", "first", "exponential")),
    "convex_hull",
    "last_first, no prior",
    "cw2v",
    "focus",
    "wechsel",
    "ofa",
    "align",
]
SEEDLESS = ["mean", *CONVEX[1:6], "last_first", "last_first, no prior", "wechsel", "ofa", "omp", "align", "auto"]
"""What draws no random numbers."""
