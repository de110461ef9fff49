"""What each method of `train` costs and brings: one stage each, from the same model, on the same tokens.

    python benchmarks/methods.py [--tokens 40k] [--only lora qlora] [--runs DIR]

examples/models/tiny-en reads Ukrainian statements (80 %) and English ones (20 %) in float32. The rates are those of the
method's kind, 5e-4 where weights train and 2e-3 where an adapter does (1e-2 for biases, norms and VeRA), and were not
tuned, so small differences mean little. The table has the share of the model that trains, the most bytes that
gradients and AdamW's moments can take (12 a number), the processor seconds of an update (the median of all but the
first two: forward and backward passes and the optimiser, in one process in turn), and bits per byte of the same 2 kB of
held-out text of both languages at the end of the stage (loram: of the pruned model). The recipe and the seconds are
written to the run folder; finished stages are kept. Nothing here says how fast a method is on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS, ADAPTER, VECTORS = 5e-4, 2e-3, 1e-2
LORA: dict[str, Any] = {"kind": "lora", "r": 16, "alpha": 32}
QLORA = LORA | {"kind": "qlora"}
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "full": ({"kind": "full"}, WEIGHTS),
    "half": ({"kind": "half"}, WEIGHTS),
    "half_nf4": ({"kind": "half", "frozen": "nf4"}, WEIGHTS),
    "freeze": ({"kind": "freeze", "train": ["last 2"]}, WEIGHTS),
    "lisa": ({"kind": "lisa", "layers": 1, "every": 5}, WEIGHTS),
    "spectrum": ({"kind": "spectrum", "share": 0.5}, WEIGHTS),
    "norms": ({"kind": "norms"}, VECTORS),
    "rows": ({"kind": "rows", "train_embeddings": "whole"}, ADAPTER),
    "lora": (LORA, ADAPTER),
    "rslora": (LORA | {"rslora": True, "alpha": 8}, ADAPTER),
    "dora": (LORA | {"dora": True}, ADAPTER),
    "lora_plus": (LORA | {"lora_plus": 4}, ADAPTER),
    "lora_fa": (LORA | {"lora_fa": True}, ADAPTER),
    "pissa": (LORA | {"init": "pissa"}, ADAPTER),
    "olora": (LORA | {"init": "olora"}, ADAPTER),
    "eva": (LORA | {"init": "eva"}, ADAPTER),
    "refactor": (LORA | {"refactor": {"every": 8, "warmup": 2}}, ADAPTER),
    "rank_select": (LORA | {"rank_select": {}}, ADAPTER),
    "average": (LORA | {"average": {}}, ADAPTER),
    "qlora": (QLORA, ADAPTER),
    "loftq": (QLORA | {"init": "loftq"}, ADAPTER),
    "vera": ({"kind": "vera"}, VECTORS),
    "loram": (LORA | {"kind": "loram", "prune": {"ratio": 0.5}}, ADAPTER),
}


def recipe(names: list[str], tokens: str, runs: Path) -> dict[str, Any]:
    """A train stage for each method."""

    def statements(language: str, seed: int) -> dict[str, Any]:
        arguments = {"languages": [language], "count": 4000, "seed": seed}
        return {"generator": "adapt.demo:statements", "arguments": arguments, "held_out": "4%"}

    def stage(settings: dict[str, Any], peak: float) -> dict[str, Any]:
        return {
            "kind": "train",
            "model": "base",
            "mixture": {"ukrainian": 0.8, "english": 0.2},
            "method": settings,
            "schedule": {"kind": "rewarm_cosine", "peak": peak, "warmup": "5%"},
            "tokens": tokens,
            "sequence_length": 256,
            "batch_size": 4,
            "precision": "fp32",
            "general": "english",
            "evaluations": 1,
            "evaluation_bytes": 2000,
            "checkpoints": 1,
        }

    return {
        "name": "methods",
        "runs": str(runs),
        "models": {"base": str(ROOT / "examples/models/tiny-en")},
        "data": {"ukrainian": statements("uk", 1), "english": statements("en", 2)},
        "stages": {name: stage(*METHODS[name]) for name in names},
    }


def clock(seconds: list[float]) -> None:
    """From now on every trainer of this process appends the processor seconds of each of its updates."""
    from transformers.trainer_callback import CallbackHandler

    begin, end, began = CallbackHandler.on_step_begin, CallbackHandler.on_step_end, 0.0

    def on_step_begin(self: Any, *arguments: Any) -> Any:
        nonlocal began
        found, began = begin(self, *arguments), time.process_time()
        return found

    def on_step_end(self: Any, *arguments: Any) -> Any:
        seconds.append(time.process_time() - began)
        return end(self, *arguments)

    CallbackHandler.on_step_begin, CallbackHandler.on_step_end = on_step_begin, on_step_end


def trained(path: Path, names: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """The stages, what is missing made in turn, and the median of the seconds of an update of each."""
    from adapt.display import Display
    from adapt.pipeline.runner import run
    from adapt.recipe import load
    from adapt.recipe.compose import graph_of

    file, graph, stages = path.with_name("seconds.json"), graph_of(load(path)), {}
    medians: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    clock(seconds := [])
    for name in names:
        seconds.clear()
        stages |= run(graph, Display(), until=name).stages
        if seconds:
            medians[name] = statistics.median(seconds[2:])
            file.write_text(json.dumps(medians), encoding="utf-8")
    return stages, medians


def table(stages: dict[str, Any], medians: dict[str, float]) -> None:
    """One line for the base, and one for each method."""
    print("| method | trains | gradients and moments | seconds an update | Ukrainian | English |")
    print("|---|---|---|---|---|---|")
    for number, (name, stage) in enumerate(stages.items()):
        metrics = stage.manifest["metrics"]
        measured = (metrics["target"]["ukrainian"], metrics["general"])
        if not number:
            print("| base | | | |", " | ".join(f"{curve['start']:.3f}" for curve in measured), "|")
        trains = metrics["trainable"]
        size = 12 * trains["parameters"] / 1e6
        values = " | ".join(f"{curve['end']:.3f}" for curve in measured)
        print(f"| {name} | {trains['share']:.2%} | {size:.2f} MB | {medians.get(name, 0):.2f} | {values} |")


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tokens", default="40k")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    folder = options.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "methods.yaml"
    path.write_text(json.dumps(recipe(options.only, options.tokens, folder), indent=1), encoding="utf-8")
    table(*trained(path, options.only))


if __name__ == "__main__":
    main()
