"""The train stage on pairs of answers, from settings to a finished folder and its report."""

from __future__ import annotations

import json

import pytest

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections.train import section
from adapt.stages.train import Train
from tests.conftest import ENGLISH
from tests.stages.workshop import context, json_sources
from tests.training.pair_workshop import rows

SMALL = {
    "kind": "train",
    "model": "base",
    "mixture": {"pairs": 1},
    "method": {"kind": "lora", "r": 4},
    "schedule": {"kind": "linear", "peak": "5e-3"},
    "epochs": 2,
    "sequence_length": 64,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "evaluations": 2,
    "general": "general",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    written = {
        "pairs": [*rows(60), {**rows(1)[0], "rejected": rows(1)[0]["chosen"]}],
        "general": [{"text": f"{index}. {text}"} for index, text in enumerate(ENGLISH)],
        "chats": [{"messages": [*row["prompt"], *row["chosen"]]} for row in rows(9)],
    }
    return json_sources(tmp_path_factory.mktemp("text"), written)


def stage(**changes) -> Train:
    return Train.model_validate(SMALL | changes)


@pytest.mark.parametrize(
    "changes",
    [{"objective": {"kind": "dpo", "loss": "ipo"}}, {"objective": "orpo", "method": "full"}],
    ids=["dpo-lora", "orpo-full"],
)
def test_a_stage_learns_to_prefer_and_says_so(changes, tmp_path, tiny_model_folder, sources):
    here = context(tmp_path / "run", tiny_model_folder, sources)
    metrics = stage(**changes).run(here)
    json.dumps(metrics)
    assert metrics["preference"]["accuracy"] > 0.5
    assert len(metrics["preference"]["curve"]["margin"]) == 3
    (report,) = metrics["sources"]
    assert report["equal"] == 1
    assert metrics["general"]["source"] == "general"
    assert metrics["changed_tensors_ok"] is True
    assert metrics["merge"]["written"]["kl"] < 1e-5
    load_model(ModelLocation(str(tmp_path / "run" / "model")))
    assert "checkpoints" not in {path.name for path in here.folder.iterdir()}
    said = here.display.text.getvalue()
    assert "left out 0 pairs with no answer within the sequence length and 1 with two equal answers" in said
    assert "rather than ⟦" in said
    written = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [5, 0]


def test_the_report_shows_margins_and_accuracies(tmp_path):
    log = [
        {"event": "train", "step": step, "tokens": 9 * step, "loss": 0.6, "learning_rate": 1e-3, "reward_margin": 0.1}
        | {"reward_accuracy": 0.75}
        for step in (1, 2)
    ]
    curve = {"accuracy": [[0, 0.0], [18, 0.9]], "margin": [[0, 0.0], [18, 0.5]]}
    metrics = {"preference": {"pairs": 12, "accuracy": 0.9, "margin": 0.5, "curve": curve}}
    record = Record("preferred", tmp_path, "finished", {"metrics": metrics}, tuple(log))
    blocks = section(record, Plots(tmp_path))
    text = " ".join(str(block) for block in blocks)
    assert "90%" in text
    assert "held-out pairs" in text


COMPLAINTS = [
    ({"objective": "dpo", "mixture": {"chats": 1}}, "objective", "the documents hold messages; use objective: sft"),
    (
        {"objective": "orpo", "mixture": {"general": 1}},
        "objective",
        "the documents hold text; use objective: causal_lm",
    ),
    ({"objective": "sft"}, "objective", "the documents hold pairs; use objective: dpo or orpo"),
]


@pytest.mark.parametrize(("changes", "field", "message"), COMPLAINTS, ids=[str(row[0]) for row in COMPLAINTS])
def test_data_that_do_not_fit_are_seen_before_anything_runs(changes, field, message, sources):
    (found,) = stage(**changes).complaints(sources)
    assert found.path == (field,)
    assert message in found.message


LATE = [
    ({"objective": "dpo", "optimizer": "paged_adamw_32bit"}, "optimizer 'paged_adamw_32bit' needs a CUDA GPU"),
    ({"objective": "dpo", "activation_offloading": True}, "activation_offloading moves activations from a CUDA GPU"),
    ({"objective": "orpo", "sequence_length": 4}, "source 'pairs' would train nothing: of "),
]


@pytest.mark.parametrize(("changes", "message"), LATE, ids=[message for _, message in LATE])
def test_what_cannot_run_is_one_line_before_the_model_is_loaded(
    changes, message, tmp_path, tiny_model_folder, sources, monkeypatch
):
    monkeypatch.setattr("adapt.methods.lora.Lora.load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(AdaptError, match=message):
        stage(**changes).run(context(tmp_path / "run", tiny_model_folder, sources))
