"""A small run on pairs of answers, for tests: everything real, nothing large."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from adapt.data.pairs import build_pairs, collate_pairs
from adapt.data.sources import Files
from adapt.methods.base import Method
from adapt.training.objectives.preference import Preference
from adapt.training.run import Run
from tests.training.workshop import make_run

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def rows(count: int = 40) -> list[dict]:
    """Questions whose right answers are of different lengths."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{number}?"}],
            "chosen": [{"role": "assistant", "content": " ".join(WORDS[: 1 + number % 7])}],
            "rejected": [{"role": "assistant", "content": f"no {WORDS[number % 11]}"}],
        }
        for number in range(count)
    ]


def pair_run(base: Path, folder: Path, method: Method, objective: Preference, held_out: bool = False, **changes) -> Run:
    """A run of `objective` on the rows; `changes` are those of the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    run = make_run(base, folder, method, hold="none", **changes)
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows())))
    settings = {"sequence_length": 48, "seed": 3, "cache": folder / "cache", "epochs": 2}
    stream = build_pairs({"p": Files(files=str(file), held_out=0)}, {"p": 1}, run.tokenizer, **settings)
    measured = objective.companions(rows(6), run.tokenizer, 48, {3, 6}) if held_out else ()
    return dataclasses.replace(
        run,
        stream=stream,
        collate=lambda items: collate_pairs(items, 1),
        bytes_per_token=None,
        companions=(*run.companions, *measured),
        make_trainer=objective.trainer,
    )


def trainer_of(run: Run):
    """The trainer of a run before its first step, as `execute` makes it."""
    from adapt.training.rules import Snapshot

    run.before = Snapshot.of(run.model, run.rows)
    return run.make_trainer(run, [])


def shaken(model: torch.nn.Module, amount: float = 0.02) -> None:
    """Move everything that trains a little, so that the model is no longer its own reference."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += amount * torch.randn(parameter.shape, generator=generator)


def alone(model, ids: list[int], marks: list[int]) -> torch.Tensor:
    """Log-probabilities of the marked tokens of one unpadded sequence, `[marked]`, from the model's own logits."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    found = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:]).unsqueeze(-1)).squeeze(-1)
    return found[torch.tensor(marks[1:], dtype=torch.bool)]
