"""Adapt a small model of one language's text to another's: full fine-tuning, LoRA and QLoRA on the same tokens.

    python benchmarks/real_text.py --general english.txt --target ukrainian.txt [--runs DIR]

Both files hold one document a line. First a Llama of 2.6 million parameters reads the general file, then the vocabulary
grows by 1,000 pieces for the target file, and each method continues the training of the grown model with a quarter of
replay. The recipes are written to the run folder, so every number can be looked up there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import adapt

METHODS = {
    "lora": ({"kind": "lora", "r": 32, "alpha": 64, "train_embeddings": "new_rows"}, 1e-3),
    "qlora": ({"kind": "qlora", "r": 32, "alpha": 64, "train_embeddings": "new_rows"}, 1e-3),
    "full": ({"kind": "full", "train_embeddings": "whole"}, 5e-4),
}
SEQUENCES = {"sequence_length": 256, "batch_size": 8}


def base_recipe(general: Path) -> dict[str, Any]:
    """A tokenizer and a model that know the general text only."""
    shape = {"hidden_size": 192, "layers": 4, "heads": 6, "key_value_heads": 6, "intermediate_size": 512}
    training = {
        "kind": "train",
        "model": "fresh",
        "mixture": {"general": 1.0},
        "method": {"kind": "full", "train_embeddings": "whole"},
        "hold_rows": "none",
        "schedule": {"kind": "wsd", "peak": 2e-3},
        "tokens": "1800k",
        **SEQUENCES,
    }
    tokenizer = {"corpus": {"general": 1.0}, "sample": "3M", "size": 4096}
    return {
        "name": "base",
        "data": {"general": {"files": str(general), "held_out": "2%"}},
        "stages": {
            "fresh": {"kind": "create_model", "tokenizer": tokenizer, "architecture": {**shape, "context": 256}},
            "base": training,
        },
    }


def target_recipe(base: Path, general: Path, target: Path) -> dict[str, Any]:
    """Grow the vocabulary, train with each method, compare."""
    stages: dict[str, Any] = {"grown": {"kind": "expand_vocabulary", "model": "base", "corpus": "target", "add": 1000}}
    for name, (method, peak) in METHODS.items():
        stages[name] = {
            "kind": "train",
            "model": "grown",
            "mixture": {"target": 0.75, "general": 0.25},
            "method": method,
            "schedule": {"kind": "rewarm_cosine", "peak": peak, "warmup": "5%"},
            "tokens": "250k",
            **SEQUENCES,
        }
    suites = {name: {"kind": "bits_per_byte", "source": name} for name in ("target", "general")}
    models = ["base", "grown", *METHODS]
    stages["scores"] = {"kind": "evaluate", "models": models, "suites": suites, "forgetting": "general"}
    sources = {
        name: {"files": str(file), "held_out": "2%"} for name, file in (("target", target), ("general", general))
    }
    return {"name": target.stem, "models": {"base": f"{base}#base"}, "data": sources, "stages": stages}


def main() -> None:
    """Write the two recipes, run them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--general", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/real-text"))
    options = parser.parse_args()
    folder = options.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    base, target = folder / "base.yaml", folder / f"{options.target.stem}.yaml"
    recipes = {
        base: base_recipe(options.general.resolve()),
        target: target_recipe(base, options.general.resolve(), options.target.resolve()),
    }
    for path, recipe in recipes.items():
        path.write_text(json.dumps({**recipe, "runs": str(folder / "runs")}, indent=2), encoding="utf-8")
        stages = adapt.run(path).outcome.stages
    scores = stages["scores"].manifest["metrics"]["models"]
    print("| model | target | general | seconds | peak memory |\n|---|---|---|---|---|")
    for name, suites in scores.items():
        trained = stages[name].manifest["metrics"] if name in METHODS else {}
        cost = f"{trained['seconds']:.0f} | {trained['peak_memory_bytes'] / 1e9:.2f} GB" if trained else " | "
        print(f"| {name} | {suites['target']['value']:.3f} | {suites['general']['value']:.3f} | {cost} |")


if __name__ == "__main__":
    main()
