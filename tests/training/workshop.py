"""A small training run on rows of text, for tests: everything real, nothing large."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from rich.console import Console
from transformers import set_seed

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.display import Display
from adapt.log import Log
from adapt.methods.base import Method, Trained
from adapt.training.batches import first_batches
from adapt.training.monitor import HeldOut, Monitor
from adapt.training.optimizer import Optimizer
from adapt.training.precision import Precision
from adapt.training.run import Run
from adapt.training.schedules.linear import Linear
from adapt.training.trainer import Plan
from tests.conftest import ENGLISH

LENGTH = 32


class Rows:
    """Packed rows of some text, each a function of its index; every third label of odd rows carries no loss."""

    reports = ()

    def __init__(self, tokenizer, lines=ENGLISH):
        self.ids = tokenizer("\n".join(lines))["input_ids"]

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        start = (index * 37) % (len(self.ids) - LENGTH)
        ids = self.ids[start : start + LENGTH]
        labels = [-100 if index % 2 and place % 3 == 0 else token for place, token in enumerate(ids)]
        half = LENGTH // 2
        return {"input_ids": ids, "labels": labels, "position_ids": [*range(half), *range(half)]}


def collate(items):
    return {name: torch.tensor([item[name] for item in items]) for name in ("input_ids", "labels", "position_ids")}


def make_plan(**changes) -> Plan:
    plan = {
        "steps": 6,
        "batch_size": 2,
        "accumulation": 1,
        "schedule": Linear(peak=5e-3),
        "optimizer": Optimizer(weight_decay=0.1),
        "precision": Precision(torch.device("cpu"), False),
        "seed": 3,
        "checkpoint_every": 2,
        "keep_checkpoints": 1,
        "log_every": 1,
        "gradient_checkpointing": False,
    }
    return Plan(**(plan | changes))


def make_run(base: Path, folder: Path, method: Method, hold: str = "special", evaluations: int = 1, **changes) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    location, plan = ModelLocation(str(base)), make_plan(**changes)
    tokenizer = load_tokenizer(location)
    set_seed(plan.seed)
    stream = Rows(tokenizer)
    batches = first_batches(stream, collate, plan.batch_size, count=4)
    model = method.build(location, plan.precision, batches)
    rows = method.rows(model, hold, location, tokenizer)
    return Run(
        model=model,
        rows=rows,
        tokenizer=tokenizer,
        stream=stream,
        collate=collate,
        plan=plan,
        monitor=Monitor({"general": HeldOut(texts=tuple(ENGLISH[:2]))}, tokenizer, plan.precision),
        general="general",
        evaluations=evaluations,
        bytes_per_token=3.0,
        folder=folder,
        display=Display(Console(file=io.StringIO())),
        log=Log(folder / "log.jsonl"),
        tensorboard=False,
        companions=method.companions(model, plan.seed),
    )


def finished(run: Run, base: Path, stops=()) -> Trained:
    ids = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    return Trained(run.model, ModelLocation(str(base)), run.tokenizer, run.rows, run.plan.precision, ids, stops)


def weights(run: Run) -> dict[str, torch.Tensor]:
    trained = ((name, value) for name, value in run.model.named_parameters() if value.requires_grad)
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in trained}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
