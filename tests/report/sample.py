"""Stage folders as a run leaves them, with numbers that no page can hold by chance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

TRAIN = {
    "tokens": 2_000_384,
    "steps": 977,
    "seconds": 141.5,
    "tokens_per_second": 14137.0,
    "peak_memory_bytes": 913_000_000,
    "precision": "fp32",
    "trainable": {"parameters": 345_678, "share": 0.1234, "blocks_share": 0.0567},
    "changed_tensors_ok": True,
    "changed_tensors": {"changed": 31, "unchanged": 40},
    "general": {
        "source": "general",
        "start": 1.713,
        "end": 1.7425,
        "curve": [[0, 1.713], [400_000, 1.829], [800_000, 1.772], [1_200_000, 1.709], [2_000_384, 1.7425]],
        "stability_gap": {"depth": 0.116, "deepest_step": 195, "recovered_step": 586},
    },
    "target": {"target": {"start": 3.271, "end": 1.937}},
    "sources": [
        {
            "source": "target",
            "documents": 4321,
            "tokens": 1_600_111,
            "bytes_per_token": 3.456,
            "truncated": 0.0123,
            "loss_share": 0.9876,
            "epochs": 1.27,
            "example": [["Число 45 пишеться ", False], ["сорок п'ять<script>alert(1)</script>", True]],
        },
        {"source": "general", "documents": 1234, "tokens": 400_273, "bytes_per_token": 4.321, "truncated": 0.0},
    ],
    "base_choice": {
        "asked": "best",
        "written": "dequantised",
        "original": {"kl": 0.0437, "top1_agreement": 0.9551},
        "dequantised": {"kl": 0.0011, "top1_agreement": 0.9911},
    },
    "reload_difference": 1.9073e-06,
}
EXPAND = {
    "base_size": 2000,
    "new_size": 3000,
    "added": 1000,
    "before": {"fertility": 5.317, "bytes_per_token": 1.693},
    "after": {"fertility": 2.119, "bytes_per_token": 4.257},
    "unreachable": 0,
    "curve": [[0, 1.693], [250, 2.91], [500, 3.55], [1000, 4.257]],
    "init": {"method": "mean_of_pieces"},
    "step0": {"target": {"before": 3.271, "after": 3.618}, "general": {"before": 1.713, "after": 1.7217}},
}
MERGE = {
    "expression": "cpt + 1.0 * (instruct - base)",
    "coefficients": {"cpt": 1.0, "instruct": 1.0, "base": -1.0},
    "vocabulary_from": "cpt",
    "special_from": "instruct",
    "rows": {"shared": 1987, "partly": 3, "anchor_only": 1000, "special": 6, "dropped": {"instruct": 2}},
    "vectors": {
        "cpt - base": {
            "relative_norm": 0.1342,
            "per_layer": [{"layer": 0, "relative_norm": 0.1123}, {"layer": 1, "relative_norm": 0.1723}],
            "per_kind": {"q_proj": 0.1417, "embed_tokens": 0.0917},
        },
        "instruct - base": {
            "relative_norm": 0.0518,
            "per_layer": [{"layer": 0, "relative_norm": 0.0411}, {"layer": 1, "relative_norm": 0.0611}],
            "per_kind": {"q_proj": 0.0531, "embed_tokens": 0.0231},
        },
    },
    "cosines": {
        "cpt - base | instruct - base": {
            "cosine": 0.0273,
            "sign_conflict": 0.4876,
            "per_layer": [
                {"layer": 0, "cosine": 0.0101, "sign_conflict": 0.4991},
                {"layer": 1, "cosine": 0.0507, "sign_conflict": 0.4781},
            ],
            "per_kind": {"q_proj": {"cosine": 0.0219, "sign_conflict": 0.4877}},
        }
    },
    "row_drift": [
        {"model": "cpt", "matrix": "lm_head.weight", "token": "<|user|>", "drift": 0.5172, "special": True},
        {"model": "cpt", "matrix": "lm_head.weight", "token": "Ġ45", "drift": 0.2131, "special": False},
    ],
    "warnings": ["'cpt' moved 1 special rows, '<|user|>' by 0.52 of its norm; they are taken from 'instruct'"],
    "reload_difference": 0.0,
}


def _score(value: float, metric: str, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - 0.041, "high": value + 0.037, "n": n, "metric": metric}


def _comparison(win: int, tie: int, loss: int, difference: float) -> dict[str, Any]:
    return {
        "win": win,
        "tie": tie,
        "loss": loss,
        "difference": difference,
        "low": difference - 0.03,
        "high": difference + 0.04,
    }


EVALUATE = {
    "models": {
        name: {
            "english": _score(english, "exact_match", 100),
            "ukrainian": _score(ukrainian, "exact_match", 100),
            "target": _score(bits, "bits_per_byte", 57),
            "general": _score(general, "bits_per_byte", 63),
        }
        for name, english, ukrainian, bits, general in (
            ("base", 0.11, 0.09, 3.271, 1.713),
            ("instruct", 0.96, 0.12, 3.304, 1.766),
            ("cpt", 0.13, 0.17, 1.937, 1.7425),
            ("chat", 0.91, 0.58, 1.995, 1.799),
        )
    },
    "own_base": {"instruct": "base", "cpt": "base", "chat": "base"},
    "comparison": {
        name: {
            "english": _comparison(86, 13, 1, english),
            "ukrainian": _comparison(11, 81, 8, ukrainian),
            "target": _comparison(44, 9, 4, bits),
        }
        for name, english, ukrainian, bits in (
            ("instruct", 0.85, 0.03, 0.033),
            ("cpt", 0.02, 0.08, -1.334),
            ("chat", 0.80, 0.49, -1.276),
        )
    },
    "forgetting": {
        "chat": {"before": 1.713, "after": 1.799, "change": 0.086, "low": 0.0511, "high": 0.1213, "percent": 5.0204}
    },
    "forgetting_source": "general",
    "examples": [
        {
            "suite": "ukrainian",
            "prompt": "Як записати число 345 словами? <b>&",
            "expected": "триста сорок п'ять",
            "answers": {"base": "", "instruct": "three hundred", "cpt": "Питання: 345", "chat": "триста сорок п'ять"},
            "right": {"base": False, "instruct": False, "cpt": False, "chat": True},
        }
    ],
}
STAGES = {
    "grown": ("expand_vocabulary", EXPAND),
    "cpt": ("train", TRAIN),
    "chat": ("merge", MERGE),
    "scores": ("evaluate", EVALUATE),
}


def train_log(folder: Path, steps: int = 98) -> None:
    """A log with a decaying loss and the evaluations of `TRAIN`."""
    events: list[dict[str, Any]] = [{"event": "session", "time": 0.0}]
    for step in range(1, steps):
        loss = 2 + 3 * math.exp(-step / 20) + 0.15 * math.sin(step * 1.7)
        rate = 3e-4 * min(1, step / 8) * (1 + math.cos(math.pi * step / steps)) / 2
        events.append(
            {
                "event": "train",
                "time": step,
                "step": step * 10,
                "tokens": step * 20_412,
                "loss": loss,
                "learning_rate": rate,
            }
        )
    target = (3.271, 2.4, 2.15, 2.0, 1.937)
    for (tokens, general), bits in zip(TRAIN["general"]["curve"], target, strict=True):
        events.append(
            {"event": "evaluation", "time": 99, "step": 0, "tokens": tokens, "target": bits, "general": general}
        )
    lines = [json.dumps(event) + "\n" for event in events]
    (folder / "log.jsonl").write_text("".join(lines) + '{"event": "tra', encoding="utf-8")


def write_stage(run: Path, name: str, kind: str, metrics: dict[str, Any], key: str = "0123456789abcdef") -> Path:
    """A finished stage's folder."""
    folder = run / name / key
    folder.mkdir(parents=True)
    manifest = {
        "stage": name,
        "kind": kind,
        "key": key,
        "settings": {"kind": kind, "note": "</pre><script>alert(2)</script>"},
        "packages": {"torch": "2.13.0"},
        "hardware": {"cpu": "a <fast> one", "cores": 2},
        "times": {"seconds": 141.5},
        "metrics": metrics,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    if kind == "train":
        train_log(folder)
    return folder


def write_run(run: Path) -> dict[str, Path]:
    """The headline recipe's stages, finished."""
    return {name: write_stage(run, name, kind, metrics) for name, (kind, metrics) in STAGES.items()}
