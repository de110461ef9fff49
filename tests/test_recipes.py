"""Every recipe that is shipped: it is valid as it stands, runs at a reduced budget, and runs again for nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import adapt
from adapt.display import Display

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SMALL_TRAINING = "tokens=6k evaluations=1 checkpoints=1 evaluation_bytes=2k batch_size=4"
REDUCED: dict[str, tuple[str, ...]] = {
    "lang": (
        "data.target.arguments.count=400 data.general.arguments.count=300",
        "data.ask_ukrainian.arguments.count=6 data.ask_english.arguments.count=6",
        "stages.grown.add=60",
        'stages.grown.init={"method":"distil","steps":4}',
    ),
    "domain": ("data.target.arguments.count=300 data.general.arguments.count=300",),
    "hft": ("data.cheques.arguments.count=300 data.ukrainian.arguments.count=200 data.general.arguments.count=200",),
    "infinite": (
        "data.first.arguments.count=300 data.second.arguments.count=300 data.general.arguments.count=300",
        "stages.monday.schedule.cooldown=1 stages.monday.schedule.anneal=1 stages.monday.schedule.warmup=1",
        "stages.tuesday.schedule.cooldown=1 stages.tuesday.schedule.anneal=1 stages.tuesday.schedule.warmup=1",
    ),
    "loram": ("data.target.arguments.count=300 data.general.arguments.count=300",),
    "merge": ("data.general.arguments.count=20 data.ask.arguments.count=6",),
    "mixture": (
        *(f"data.{name}.arguments.count=150" for name in ("numbers", "dates", "amounts", "composites")),
        *(f"data.ask_{name}.arguments.count=2" for name in ("numbers", "dates", "amounts")),
        *(f"stages.scores.suites.{name}.max_new_tokens=4" for name in ("numbers", "dates", "amounts", "composites")),
        "data.ask_composites.arguments.count=2 stages.ties.evaluation_bytes=1k",
        *(f"stages.{name}_adapter.tokens=2k" for name in ("numbers", "dates", "amounts")),
        "stages.gates.tokens=2k stages.distilled.tokens=2k",
    ),
    "preference": (
        "data.answers.arguments.count=100 data.pairs.arguments.count=150",
        "data.general.arguments.count=150 data.ask.arguments.count=6 data.dev.arguments.count=6",
    ),
    "qlora": ("data.target.arguments.count=300 data.general.arguments.count=200", "stages.grown.add=40"),
    "staged": (
        "data.target.arguments.count=300 data.general.arguments.count=200",
        "stages.grown.add=40",
        'stages.grown.init={"method":"distil","steps":4}',
    ),
    "sft": ("data.answers.arguments.count=400 data.general.arguments.count=200 data.ask.arguments.count=6",),
    "tiny": (
        "data.english.arguments.count=300 data.tuning.arguments.count=300 data.ukrainian.arguments.count=100",
        "data.answers.arguments.count=400 stages.fresh.tokenizer.size=600",
        "data.ask_en.arguments.count=4 data.ask_de.arguments.count=4 data.ask_uk.arguments.count=4",
    ),
}


def reduced(path: Path, runs: Path) -> list[str]:
    """The options that make a recipe small: little text, a few steps of training."""
    stages = adapt.load_recipe(path).recipe.stages.items()
    trained = [name for name, stage in stages if stage.kind == "train"]
    options = [f"stages.{name}.{setting}" for name in trained for setting in SMALL_TRAINING.split()]
    return [*options, *(option for line in REDUCED[path.stem] for option in line.split()), f"runs={runs}"]


def run(path: Path, runs: Path) -> tuple[adapt.recipe.Finished, str]:
    output = io.StringIO()
    display = Display(Console(file=output, width=200))
    return adapt.run(path, reduced(path, runs), display=display), output.getvalue()


LONG = {"domain", "hft", "infinite", "lang", "loram", "mixture", "preference", "qlora", "sft", "staged", "tiny"}
"""Recipes that take over ten seconds even so."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in RECIPES],
)
def test_every_recipe_runs_small_and_a_second_run_does_nothing(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    finished, _ = run(path, tmp_path)
    stages = finished.outcome.stages
    assert {result.state for result in stages.values()} == {"done"}
    assert finished.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    for result in stages.values():
        folder = result.folder / "model"
        if folder.is_dir():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder)
            ids = torch.tensor([tokenizer("12 — дванадцять")["input_ids"]])
            assert torch.isfinite(model(ids).logits).all()
    again, output = run(path, tmp_path)
    assert {result.state for result in again.outcome.stages.values()} == {"kept"}
    assert "nothing to do" in output


def test_every_recipe_has_a_reduced_form():
    assert {path.stem for path in RECIPES} == set(REDUCED)
