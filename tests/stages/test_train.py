"""The train stage from settings to a finished folder, on real files."""

from __future__ import annotations

import json
import shutil

import pytest
from pydantic import TypeAdapter

from adapt.checkpoints import ModelLocation, load_model
from adapt.data.sources import AnySource
from adapt.errors import AdaptError
from adapt.stages.train import Train
from tests.conftest import ENGLISH, UKRAINIAN
from tests.stages.workshop import context, json_sources

SOURCE = TypeAdapter(AnySource)
SMALL = {
    "kind": "train",
    "model": "base",
    "mixture": {"target": 0.75, "general": 0.25},
    "method": {"kind": "lora", "r": 4},
    "schedule": {"kind": "linear", "peak": "5e-3"},
    "tokens": "2k",
    "sequence_length": 64,
    "batch_size": 4,
    "evaluations": 2,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    chats = [
        {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"It is {number}."}]}
        for number in range(60)
    ]
    lines = {"target": UKRAINIAN, "general": ENGLISH}
    texts = {name: [{"text": f"{index}. {text}"} for index, text in enumerate(found)] for name, found in lines.items()}
    return json_sources(tmp_path_factory.mktemp("text"), texts | {"chats": chats})


def stage(**changes) -> Train:
    return Train.model_validate(SMALL | changes)


def test_a_causal_stage_leaves_a_model_an_adapter_and_its_numbers(tmp_path, tiny_model_folder, sources):
    here = context(tmp_path / "run", tiny_model_folder, sources)
    metrics = stage().run(here)
    json.dumps(metrics)
    assert metrics["steps"] * 4 * 64 >= 2000
    assert metrics["changed_tensors_ok"] is True
    assert 0 < metrics["trainable"]["blocks_share"] < 0.2
    assert metrics["general"]["source"] == "general"
    assert len(metrics["general"]["curve"]) == 3
    assert metrics["target"]["target"]["end"] < metrics["target"]["target"]["start"]
    assert [report["source"] for report in metrics["sources"]] == ["target", "general"]
    assert metrics["merge"]["written"]["kl"] < 1e-5
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"model", "adapter", "log.jsonl", "tensorboard"}
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    load_model(ModelLocation(str(tmp_path / "run" / "model")))
    assert "⟦" in here.display.text.getvalue()


def test_an_sft_stage_learns_to_stop(tmp_path, tiny_model_folder, sources):
    here = context(tmp_path / "run", tiny_model_folder, sources)
    changes = {"objective": "sft", "mixture": {"chats": 1}, "method": "full", "tokens": None, "epochs": 2}
    metrics = stage(**changes).run(here)
    assert metrics["stop"] == {"token": "<|end|>", "id": 5, "trained": True}
    assert metrics["target"]["chats"]["end"] < metrics["target"]["chats"]["start"]
    written = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [5, 0]


def test_a_stage_goes_on_from_an_infinite_one(tmp_path, tiny_model_folder, sources):
    schedule = {"kind": "infinite", "peak": 5e-3, "warmup": 1, "cooldown": 2, "anneal": 2}
    stage(schedule=schedule).run(context(tmp_path / "a", tiny_model_folder, sources))
    assert (tmp_path / "a" / "before_anneal" / "weights.safetensors").exists()
    second = stage(schedule=schedule, continue_from="first")
    assert {reference.name for reference in second.reads().models} == {"base", "first"}
    here = context(tmp_path / "b", tiny_model_folder, sources, upstream={"first": tmp_path / "a"})
    second.run(here)
    rates = [event["learning_rate"] for event in here.log.read("train")]
    assert rates[0] == pytest.approx(0.4 * 5e-3)


def test_running_again_over_a_finished_training_only_saves(tmp_path, tiny_model_folder, sources):
    """As after a kill between the last step and the renaming of the folder."""
    straight = context(tmp_path / "a", tiny_model_folder, sources)
    stage(checkpoints=2).run(straight)
    events = [event for event in straight.log.read() if event["event"] == "train"]
    again = context(tmp_path / "a", tiny_model_folder, sources)
    stage(checkpoints=2).run(again)  # its states are gone, so it trains anew, from step 0
    assert [event["loss"] for event in again.log.read("train")] == [event["loss"] for event in events]
    assert "checkpoints" not in {path.name for path in again.folder.iterdir()}


COMPLAINTS = [
    ({"mixture": {"target": 0.7, "general": 0.2}}, ("mixture",), "the shares sum to 0.9; they must sum to 1"),
    ({"tokens": None}, ("tokens",), "give either tokens or epochs"),
    ({"epochs": 1}, ("tokens",), "give either tokens or epochs"),
    ({"objective": "sft"}, ("objective",), "source 'target': objective sft needs conversations"),
    ({"mixture": {"chats": 1}}, ("objective",), "source 'chats': objective causal_lm needs plain text"),
    (
        {"method": {"kind": "lora", "targets": []}},
        ("method", "targets"),
        "an empty list of targets would train nothing",
    ),
    ({"method": {"kind": "qlora", "targets": ["lm_head"]}}, ("method", "targets"), "'lm_head' is an embedding"),
    ({"schedule": {"kind": "wsd", "warmup": 0.6, "decay": 0.6}}, ("schedule", "decay"), "more than the whole run"),
    ({"schedule": {"kind": "infinite", "floor": 0.5}}, ("schedule", "floor"), "so the anneal would go up"),
    ({"continue_from": "first"}, ("continue_from",), "needs schedule 'infinite', this stage has 'linear'"),
]


@pytest.mark.parametrize(("changes", "path", "message"), COMPLAINTS, ids=[str(row[0]) for row in COMPLAINTS])
def test_what_does_not_fit_is_seen_before_anything_runs(changes, path, message, sources):
    found = list(stage(**changes).complaints(sources))
    assert any(complaint.path == path and message in complaint.message for complaint in found), found


def test_a_right_stage_has_no_complaints(sources):
    assert not list(stage().complaints(sources))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 512}, "sequence_length is 512, but the model 'base' has 256 positions"),
        ({"method": {"kind": "lora", "train_embeddings": "new_rows"}}, "has no new rows to train"),
        ({"schedule": "infinite"}, "schedule 'infinite' needs 700 updates"),
        ({"attention": "flash_attention_2"}, "needs a CUDA GPU"),
        ({"method": {"kind": "lora", "targets": ["q_prog"]}}, "q_prog"),
    ],
)
def test_what_is_seen_only_at_run_time_is_one_line(changes, message, tmp_path, tiny_model_folder, sources):
    with pytest.raises(AdaptError, match=message) as caught:
        stage(**changes).run(context(tmp_path / "run", tiny_model_folder, sources))
    assert "\n" not in str(caught.value)


def test_data_that_would_train_nothing_stops_the_stage(tmp_path, tiny_model_folder):
    (tmp_path / "empty.txt").write_text("")
    nothing = {"target": SOURCE.validate_python({"files": str(tmp_path / "empty.txt")})}
    with pytest.raises(AdaptError):
        stage(mixture={"target": 1}).run(context(tmp_path / "run", tiny_model_folder, nothing))
    shutil.rmtree(tmp_path / "run")
