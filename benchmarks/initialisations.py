"""Every initialisation of new rows, right after it and after some training: bits per byte of target and general text.

    python benchmarks/initialisations.py [--methods mean,distil] [--seeds 1,2,3] [--steps 50,200,1000]
    python benchmarks/initialisations.py --general english.txt --target ukrainian.txt

Without files: examples/models/tiny-en (tied) grows by 500 pieces for the demo's Ukrainian. With two files, one document
a line: a Llama like that of `real_text.py`, but not tied, reads the general file and grows by 1,000 pieces for the
target.
All methods train on the same batches: one seed decides the method's random numbers and the order of the text. A step is
4 rows of 32 tokens, a quarter of them general text; the body trains whole at 5e-4 and the new rows at 2e-3 under AdamW
without decay, old rows stand still. The held-out text is never trained on.

Every measurement is a line of `scores.jsonl` in the run folder; what is there is not measured again, so the table can
be made in parts. Intervals are 95 % by Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from real_text import base_recipe

import adapt
from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.data.sources import Files, Generator, Source, held_out_documents, training_documents
from adapt.evaluation.bits_per_byte import bits_per_byte, first_token
from adapt.vocabulary.evidence import Evidence
from adapt.vocabulary.expansion import Growth, expand
from adapt.vocabulary.initialisation import AnyInitialisation
from adapt.vocabulary.rows import grow, ordinary_rows
from adapt.vocabulary.splice import published, write_tokenizer
from adapt.vocabulary.words import text_of, up_to

TIED_METHODS = {
    "random": "random",
    "mean": "mean",
    "gaussian": "gaussian",
    "gaussian scale 1": {"method": "gaussian", "scale": 1},
    "mean_of_pieces": "mean_of_pieces",
    "mean_of_pieces bytes": {"method": "mean_of_pieces", "weights": "bytes"},
    "mean_of_pieces exponential": {"method": "mean_of_pieces", "weights": "exponential"},
    "convex_hull": "convex_hull",
    "cw2v": "cw2v",
    "focus": "focus",
    "auto": "auto",
    "distil": "distil",
}
METHODS = TIED_METHODS | {
    "last_first": "last_first",
    "last_first no prior": {"method": "last_first", "prior": False},
    "last_first exponential": {"method": "last_first", "input": "exponential"},
    "mean_of_pieces / last_first": {"input": "mean_of_pieces", "output": "last_first"},
    "distil on last_first": {"method": "distil", "start": {"method": "last_first", "input": "exponential"}},
}
BATCH, LENGTH, WARMUP = 4, 32, 20
BODY_RATE, ROW_RATE = 5e-4, 2e-3
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass
class Case:
    """A model, its tokenizer before and after growing, and text."""

    name: str
    model: Path
    ids: list[int]
    parts: list[tuple[int, ...]]
    grown: Path
    texts: dict[str, list[str]]
    held_out: dict[str, list[str]]


def prepared(name: str, model: Path, sources: dict[str, Source], add: int, folder: Path, measured: int) -> Case:
    """Grow the tokenizer, once for all methods."""
    texts = {key: list(up_to(map(text_of, training_documents(one)), 2_000_000)) for key, one in sources.items()}
    held_out = {key: [text_of(one) for one in held_out_documents(source, measured)] for key, source in sources.items()}
    location = ModelLocation(str(model))
    tokenizer = load_tokenizer(location)
    grown = expand(published(location, tokenizer), Growth(add), texts["target"], held_out["target"])
    write_tokenizer(tokenizer, grown.document, folder / name)
    return Case(name, model, grown.ids, grown.parts, folder / name, texts, held_out)


def tiny(folder: Path, measured: int) -> Case:
    """The example model and the demo's text."""

    def statements(language: str, count: int, seed: int) -> Generator:
        arguments = {"languages": [language], "count": count, "seed": seed, "qa_share": 0.5}
        return Generator(generator="adapt.demo:statements", arguments=arguments, held_out="2%")

    sources = {"target": statements("uk", 12000, 1), "general": statements("en", 6000, 2)}
    return prepared("tiny-en", Path("examples/models/tiny-en"), sources, 500, folder, measured)


def real(general: Path, target: Path, base: Path | None, folder: Path, measured: int) -> Case:
    """A model trained here on the general file, or the one that is given."""
    model = base if base is not None else base_model(general, folder)
    files = {"target": target, "general": general}
    sources = {name: Files(files=str(file), held_out="2%") for name, file in files.items()}
    return prepared(target.stem, model, sources, 1000, folder, measured)


def base_model(general: Path, folder: Path) -> Path:
    """The model of `real_text.py`, but with a head of its own."""
    content = base_recipe(general.resolve())
    content["stages"]["fresh"]["architecture"]["tied"] = False
    recipe = folder / "base.yaml"
    recipe.write_text(json.dumps(content | {"runs": str((folder / "runs").resolve())}, indent=2), encoding="utf-8")
    return adapt.run(recipe).outcome.stages["base"].folder / "model"


class Batches:
    """Rows of `LENGTH` tokens at random places of the two texts; the same for all methods under one seed."""

    def __init__(self, case: Case, tokenizer: Any, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        first = first_token(tokenizer)
        self._flat = {
            name: np.array(
                [index for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for index in [first, *ids]]
            )
            for name, texts in case.texts.items()
        }

    def next(self) -> torch.Tensor:
        """Ids `[BATCH, LENGTH]`, a quarter of the rows general text."""
        names = ["general"] * (BATCH // 4) + ["target"] * (BATCH - BATCH // 4)
        rows = []
        for name in names:
            flat = self._flat[name]
            start = int(self._random.integers(len(flat) - LENGTH))
            rows.append(flat[start : start + LENGTH])
        return torch.from_numpy(np.stack(rows))


def trained(model: Any, ids: Sequence[int], batches: Batches, steps: int) -> Iterator[int]:
    """Train the body and the new rows in place; yields after each step how many there were."""
    heads = {
        id(module.weight): module.weight for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in heads.values():
        held = torch.ones(len(weight), 1)
        held[list(ids)] = 0
        weight.register_hook(lambda gradient, held=held: gradient * (1 - held))
    body = [parameter for parameter in model.parameters() if id(parameter) not in heads]
    groups = [{"params": body, "lr": BODY_RATE}, {"params": list(heads.values()), "lr": ROW_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    for step in range(1, steps + 1):
        batch = batches.next()
        model.train()
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield step


def measured(case: Case, method: str, init: Any, seed: int, steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One line for right after the initialisation and one for each number of steps."""
    old, new = load_tokenizer(ModelLocation(str(case.model))), load_tokenizer(ModelLocation(str(case.grown)))
    model = load_model(ModelLocation(str(case.model)), dtype=torch.float32)
    texts = case.held_out
    evidence = Evidence(model, old, new, lambda: iter(case.texts["target"]), texts, general="general")
    begin = time.perf_counter()
    ordinary = ordinary_rows(old, model.get_input_embeddings().weight.shape[0])
    grow(model, case.ids, case.parts, ordinary, init, seed, evidence)
    seconds = time.perf_counter() - begin
    for step in itertools.chain([0], trained(model, case.ids, Batches(case, new, seed), max(steps, default=0))):
        if step in (0, *steps):
            scores = {name: bits_per_byte(model, new, texts[name]).value for name in texts}
            yield {"case": case.name, "method": method, "seed": seed, "step": step, "init_seconds": seconds, **scores}


def table(lines: Sequence[dict[str, Any]], case: str) -> str:
    """Rows of methods, columns of steps, target and general: mean and half of the 95 % interval over the seeds."""
    lines = [line for line in lines if line["case"] == case]
    steps = sorted({line["step"] for line in lines})
    head = [f"{name} {step}" for name in ("target", "general") for step in steps]
    rows = [f"| {case} | {' | '.join(head)} | seconds |", "|---" * (len(head) + 2) + "|"]
    for method in dict.fromkeys(line["method"] for line in lines):
        own = [line for line in lines if line["method"] == method]
        cells = [
            interval([line[name] for line in own if line["step"] == step])
            for name in ("target", "general")
            for step in steps
        ]
        rows.append(f"| {method} | {' | '.join(cells)} | {fmean(line['init_seconds'] for line in own):.1f} |")
    return "\n".join(rows)


def interval(values: Sequence[float]) -> str:
    """`1.234 ±0.005`; without the interval for a single value."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = STUDENT.get(len(values), 2.6) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.3f} ±{half:.3f}"


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--general", type=Path)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--base", type=Path, help="the folder of a model to use with the two files")
    parser.add_argument("--methods", help="names from the table, with commas between them; default: all")
    parser.add_argument("--also", action="append", default=[], help='another one: name={"method": "wechsel", ...}')
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", default="50,200,1000", help="empty: only right after the initialisation")
    parser.add_argument("--bytes", type=int, default=20_000, help="held-out text that is measured, of each kind")
    parser.add_argument("--runs", type=Path, default=Path("runs/initialisations"))
    given = parser.parse_args()
    if (given.general is None) != (given.target is None):
        parser.error("--general and --target belong together")
    return given


def main() -> None:
    """Measure what is missing, print the table."""
    given = options()
    given.runs.mkdir(parents=True, exist_ok=True)
    if given.general:
        case, known = real(given.general, given.target, given.base, given.runs, given.bytes), METHODS
    else:
        case, known = tiny(given.runs, given.bytes), TIED_METHODS
    chosen = {name: known[name] for name in (given.methods.split(",") if given.methods else known)}
    chosen |= {name: json.loads(text) for name, _, text in (item.partition("=") for item in given.also)}
    steps = [int(step) for step in given.steps.split(",") if step]
    scores = given.runs / "scores.jsonl"
    for seed, (method, settings) in itertools.product(map(int, given.seeds.split(",")), chosen.items()):
        there = {(line["case"], line["method"], line["seed"], line["step"]) for line in read(scores)}
        if all((case.name, method, seed, step) in there for step in (0, *steps)):
            continue
        init = TypeAdapter(AnyInitialisation).validate_python(settings)
        for line in measured(case, method, init, seed, steps):
            if (case.name, method, seed, line["step"]) not in there:
                with scores.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    print(table(read(scores), case.name))


def read(path: Path) -> list[dict[str, Any]]:
    """The lines measured so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
