"""The low-rank options through the train stage, on real files."""

from __future__ import annotations

import io
import json

from pydantic import TypeAdapter
from rich.console import Console

from adapt.checkpoints import ModelLocation
from adapt.data.sources import AnySource
from adapt.display import Display
from adapt.log import Log
from adapt.stages.base import StageContext
from adapt.stages.train import Train
from tests.conftest import ENGLISH


def test_eva_with_patterns_and_restarts_over_four_bits(tmp_path, tiny_model_folder):
    (tmp_path / "text.txt").write_text("\n\n".join(f"{index}. {line}" for index, line in enumerate(ENGLISH * 2)))
    source = {"files": str(tmp_path / "text.txt"), "held_out": 0.1}
    method = {
        "kind": "qlora",
        "r": 3,
        "init": "eva",
        "rank_pattern": {"down_proj": 2},
        "lora_plus": 4,
        "refactor": {"every": 4, "warmup": 1},
    }
    settings = {
        "kind": "train",
        "model": "base",
        "mixture": {"text": 1},
        "method": method,
        "schedule": {"kind": "linear", "peak": "5e-3"},
        "tokens": "1.5k",
        "sequence_length": 64,
        "batch_size": 2,
        "evaluations": 1,
        "report_to": [],
    }
    stage = Train.model_validate(settings)
    assert list(stage.complaints({})) == []
    (tmp_path / "run").mkdir()
    context = StageContext(
        recipe="test",
        stage="cpt",
        seed=5,
        folder=tmp_path / "run",
        cache=tmp_path / "cache",
        models={"base": ModelLocation(str(tiny_model_folder))},
        sources={"text": TypeAdapter(AnySource).validate_python(source)},
        display=Display(Console(file=io.StringIO())),
        log=Log(tmp_path / "run" / "log.jsonl"),
    )
    metrics = stage.run(context)
    json.dumps(metrics)
    restarts = (metrics["steps"] - 1) // 4
    assert metrics["restarts"] == {"restarts": restarts}
    assert restarts > 1
    assert metrics["target"]["text"]["end"] < metrics["target"]["text"]["start"]
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    ranks = {config["r"], *config["rank_pattern"].values()}
    assert len(ranks) > 1  # shared out by the variance of the inputs
    assert all(rank % (restarts + 1) == 0 for rank in ranks)  # a sum of updates of the same rank
    assert metrics["base_choice"]["dequantised"]["kl"] < 2e-3


def test_mistakes_have_their_place():
    method = {"kind": "lora", "r": 4, "refactor": {"every": 40}, "init": "loftq"}
    settings = {"kind": "train", "model": "base", "mixture": {"text": 1}, "method": method, "tokens": 100}
    complaints = {complaint.path for complaint in Train.model_validate(settings).complaints({})}
    assert complaints == {("method", "init"), ("method", "refactor")}
