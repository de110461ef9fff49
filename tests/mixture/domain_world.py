"""A small world of two domains and general text, a stage over it, and models with bottlenecks; everything real."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from pydantic import TypeAdapter
from rich.console import Console

from adapt.checkpoints import ModelLocation
from adapt.data.sources import AnySource
from adapt.display import Display
from adapt.log import Log
from adapt.mixture.bottleneck import parallel_layers
from adapt.stages.base import StageContext
from adapt.stages.train import Train
from tests.conftest import ENGLISH, UKRAINIAN

TEXTS = {
    "general": [f"{index}. {line}" for index, line in enumerate(ENGLISH * 3)],
    "uk": [f"{index}. {line}" for index, line in enumerate(UKRAINIAN * 3)],
    "sums": [f"{a} + {b} = {a + b}; {a} * {b} = {a * b}." for a in range(12) for b in range(12)],
}


def sources(folder: Path) -> dict:
    found = {}
    for name, lines in TEXTS.items():
        (folder / f"{name}.txt").write_text("\n\n".join(lines), encoding="utf-8")
        source = {"files": str(folder / f"{name}.txt"), "held_out": 0.1}
        found[name] = TypeAdapter(AnySource).validate_python(source)
    return found


def stage(**changes) -> Train:
    settings = {
        "kind": "train",
        "model": "base",
        "mixture": {"uk": 0.5, "general": 0.5},
        "schedule": {"kind": "linear", "peak": "2e-2"},
        "tokens": "4k",
        "sequence_length": 64,
        "batch_size": 4,
        "evaluations": 1,
        "evaluation_bytes": 600,
        "report_to": [],
    }
    return Train.model_validate(settings | changes)


def run(folder: Path, base: Path, **changes) -> dict:
    """Run a train stage in `folder`; returns its metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = stage(**changes)
    assert list(trained.complaints({})) == []
    return trained.run(context(folder, base))


def context(folder: Path, base: Path, **others) -> StageContext:
    return StageContext(
        recipe="test",
        stage="stage",
        seed=5,
        folder=folder,
        cache=folder.parent / "cache",
        models={"base": ModelLocation(str(base))},
        sources=sources(folder.parent),
        display=Display(Console(file=io.StringIO())),
        log=Log(folder / "log.jsonl"),
        **others,
    )


def logits(model, ids, **others) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **others).logits


def ids_of(rows: int = 2, length: int = 24, seed: int = 3) -> torch.Tensor:
    return torch.randint(6, 380, (rows, length), generator=torch.Generator().manual_seed(seed))


def stir(model, seed: int = 0) -> None:
    """Give every bottleneck and gate of a model some values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in parallel_layers(model).values():
            for part in (layer.domains, layer.task, layer.router):
                for parameter in part.parameters() if part is not None else ():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
