"""Learned against forgotten: two tasks one after the other, with every method, at equal tokens.

    python benchmarks/forgetting.py                                    everything that is not in the results yet
    python benchmarks/forgetting.py --methods full half --seeds 0 1    a part of it
    python benchmarks/forgetting.py --table                            only print what there is

examples/models/tiny-en, which has read English, German and others, learns cheques (an English domain) and then
Ukrainian, without replay. Learned is the fall of a task's bits per byte on held-out text, from the base to the end of
its own stage; forgotten is the rise of the general (English) text over both stages, and that of the cheques over the
second. `reset` is full fine-tuning, but after each stage half of the tensors are put back to what they were before it
(the merge method half_reset); embeddings are drawn like any other tensor there, while half fine-tuning trains them. A
line of JSON for each method and seed goes to DIR/results.jsonl; a run that is stopped goes on. The table has means and
95 % intervals of Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "full": ({"kind": "full"}, 5e-4),
    "half": ({"kind": "half"}, 5e-4),
    "half nf4": ({"kind": "half", "frozen": "nf4"}, 5e-4),
    "lora": ({"kind": "lora", "r": 16, "alpha": 32}, 2e-3),
    "qlora": ({"kind": "qlora", "r": 16, "alpha": 32}, 2e-3),
    "half every": ({"kind": "half", "reselect": {"every": 5}}, 5e-4),
    "lisa": ({"kind": "lisa", "layers": 1, "every": 5}, 5e-4),
}
DEFAULT = ("full", "half", "half nf4", "lora", "qlora")
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""The 97.5 % quantile of Student's t for so many seeds."""


def recipe(method: str, seed: int, tokens: str, scale: float, runs: Path) -> dict[str, Any]:
    """Two stages, for `full` also what half a reset makes of them, and the scores of all models."""
    settings, peak = METHODS[method]
    if "half" in method or method == "lisa":
        settings = settings | {"seed": seed}

    def stage(model: str, source: str) -> dict[str, Any]:
        return {
            "kind": "train",
            "model": model,
            "mixture": {source: 1.0},
            "method": settings,
            "schedule": {"kind": "rewarm_cosine", "peak": peak * scale, "warmup": "5%"},
            "tokens": tokens,
            "sequence_length": 256,
            "batch_size": 8,
            "evaluations": 1,
            "evaluation_bytes": 2000,
            "checkpoints": 1,
            "precision": "fp32",
        }

    stages: dict[str, Any] = {"first": stage("base", "cheques"), "second": stage("first", "ukrainian")}
    if method == "full":
        stages["reset_first"] = {"kind": "merge", "expression": f"half_reset(first, base, ratio=0.5, seed={seed})"}
        stages["again"] = stage("reset_first", "ukrainian")
        again = f"half_reset(again, reset_first, ratio=0.5, seed={seed + 1000})"
        stages["reset_second"] = {"kind": "merge", "expression": again}
    suites = {
        name: {"kind": "bits_per_byte", "source": name, "bytes": 8000} for name in ("cheques", "ukrainian", "general")
    }
    stages["scores"] = {
        "kind": "evaluate",
        "models": ["base", *(name for name in stages if name != "again")],
        "suites": suites,
        "forgetting": "general",
    }
    return {
        "name": f"{method.replace(' ', '-')}-{seed}",
        "seed": seed,
        "runs": str(runs),
        "models": {"base": str(ROOT / "examples/models/tiny-en")},
        "data": sources(seed),
        "stages": stages,
    }


def sources(seed: int) -> dict[str, Any]:
    """The texts, others for each seed."""

    def statements(language: str, count: int) -> dict[str, Any]:
        return {"languages": [language], "count": count, "seed": 100 + seed}

    return {
        "cheques": {"generator": "adapt.demo:cheques", "arguments": {"count": 3000, "seed": seed}, "held_out": "5%"},
        "ukrainian": {
            "generator": "adapt.demo:statements",
            "arguments": statements("uk", 4000),
            "held_out": "4%",
        },
        "general": {"generator": "adapt.demo:statements", "arguments": statements("en", 1500), "held_out": "10%"},
    }


def measure(method: str, seed: int, tokens: str, scale: float, folder: Path) -> list[dict[str, Any]]:
    """Run one method with one seed; a row of results, for `full` a second one for the reset."""
    import adapt

    path = folder / f"{method.replace(' ', '-')}-{seed}.yaml"
    path.write_text(json.dumps(recipe(method, seed, tokens, scale, folder / "runs"), indent=1), encoding="utf-8")
    stages = adapt.run(path).outcome.stages
    scores = stages["scores"].manifest["metrics"]["models"]
    values = {model: {suite: own["value"] for suite, own in suites.items()} for model, suites in scores.items()}
    trained = [stages[name].manifest["metrics"] for name in ("first", "second")]
    common = {"seed": seed, "tokens": tokens, "scale": scale}
    cost = {
        "seconds": sum(metrics["seconds"] for metrics in trained),
        "blocks_share": trained[0]["trainable"]["blocks_share"],
        "exchange": [metrics.get("exchange") for metrics in trained],
    }
    rows = [common | {"method": method, **changes(values, "first", "second"), "values": values, **cost}]
    if method == "full":
        rows.append(common | {"method": "reset", **changes(values, "reset_first", "reset_second")})
    return rows


def changes(values: dict[str, dict[str, float]], first: str, second: str) -> dict[str, float]:
    """What was learned and forgotten, in bits per byte. The first task may hurt the second: base to end."""
    base, one, two = values["base"], values[first], values[second]
    return {
        "learned_first": base["cheques"] - one["cheques"],
        "learned_second": base["ukrainian"] - two["ukrainian"],
        "forgotten_first": two["cheques"] - one["cheques"],
        "forgotten_general": two["general"] - base["general"],
    }


def interval(values: list[float]) -> str:
    """Mean and 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def table(rows: list[dict[str, Any]]) -> None:
    """One line for each method."""
    names = ("learned_first", "learned_second", "forgotten_first", "forgotten_general")
    print(f"| method | seeds | {' | '.join(name.replace('_', ' ') for name in names)} |")
    print("|---" * (len(names) + 2) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        print(f"| {method} | {len(own)} | {' | '.join(interval([row[name] for row in own]) for name in names)} |")


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(DEFAULT), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", default="50k", help="of each stage")
    parser.add_argument("--scale", type=float, default=1.0, help="of the learning rates")
    parser.add_argument("--runs", type=Path, default=Path("runs/forgetting"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    folder = options.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    settings = (options.tokens, options.scale)
    rows = [row for row in rows if (row["tokens"], row["scale"]) == settings]
    known = {(row["method"], row["seed"]) for row in rows}
    for seed in [] if options.table else options.seeds:
        for method in options.methods:
            if (method, seed) not in known:
                new = measure(method, seed, *settings, folder)
                with results.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
                rows += new
    table(rows)


if __name__ == "__main__":
    main()
