"""The recipes that `adapt init` writes: only values; what they mean is told by the fields' own descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODELS = {"base": "owner/base-model", "instruct": "owner/instruct-model"}
_DATA = {
    "target": {"files": "data/target/*.txt", "held_out": "1%"},
    "general": {"files": "data/general/*.jsonl", "field": "text"},
    "questions": {"files": "data/questions.jsonl"},
}
_SUITES = {
    "target_text": {"kind": "bits_per_byte", "source": "target"},
    "general_text": {"kind": "bits_per_byte", "source": "general"},
    "questions": {"kind": "exact_match", "source": "questions", "format": "chat"},
}
_CHAT = {"kind": "merge", "expression": "cpt + 1.0 * (instruct - base)"}


def _train(model: str, embeddings: str, peak: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "model": model,
        "objective": "causal_lm",
        "mixture": {"target": "80%", "general": "20%"},
        "method": {"kind": "qlora", "r": 32, "train_embeddings": embeddings},
        "schedule": {"kind": "rewarm_cosine", "peak": peak, "warmup": "2%"},
        "tokens": "20M",
        "sequence_length": 1024,
        "batch_size": 8,
        "gradient_checkpointing": True,
    }


STARTERS: Mapping[str, Mapping[str, Any]] = {
    "lang": {
        "name": "my-language",
        "description": "Teach a base model a language and keep what its instruct sibling can do.",
        "models": _MODELS,
        "data": _DATA,
        "stages": {
            "grown": {
                "kind": "expand_vocabulary",
                "model": "base",
                "corpus": "target",
                "add": 8000,
                "init": "convex_hull",
                "general": "general",
            },
            "cpt": _train("grown", "new_rows", 3e-4),
            "chat": _CHAT,
            "scores": {
                "kind": "evaluate",
                "models": ["base", "instruct", "cpt", "chat"],
                "suites": _SUITES,
                "forgetting": "general",
            },
        },
    },
    "domain": {
        "name": "my-domain",
        "description": "Teach a base model a domain in a language that it knows.",
        "models": {"base": _MODELS["base"]},
        "data": {name: _DATA[name] for name in ("target", "general")},
        "stages": {
            "cpt": _train("base", "frozen", 2e-4),
            "scores": {
                "kind": "evaluate",
                "models": ["base", "cpt"],
                "suites": {name: _SUITES[name] for name in ("target_text", "general_text")},
                "forgetting": "general",
            },
        },
    },
    "merge": {
        "name": "my-merge",
        "description": "Give a model that was trained further what its base's instruct sibling learned.",
        "models": {**_MODELS, "cpt": "owner/base-model-trained-further"},
        "data": {name: _DATA[name] for name in ("general", "questions")},
        "stages": {
            "chat": _CHAT,
            "scores": {
                "kind": "evaluate",
                "models": ["base", "instruct", "cpt", "chat"],
                "suites": {name: _SUITES[name] for name in ("general_text", "questions")},
                "forgetting": "general",
            },
        },
    },
}
