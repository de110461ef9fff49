"""Half fine-tuning and its siblings through the train stage, on real files."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from adapt.errors import AdaptError
from adapt.methods import METHODS
from tests.stages.test_train import SMALL, context, sources, stage  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_a_stage_tells_what_trained_and_what_the_exchange_cost(tmp_path, tiny_model_folder, sources):  # noqa: F811
    here = context(tmp_path / "run", tiny_model_folder, sources)
    metrics = stage(method={"kind": "half", "frozen": "nf4"}).run(here)
    json.dumps(metrics)
    told = metrics["selection"]
    before, after = (load_file(f / "model.safetensors") for f in (tiny_model_folder, tmp_path / "run" / "model"))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed - set(told["trained"]) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert 0.4 < metrics["trainable"]["blocks_share"] < 0.6
    assert set(metrics["exchange"]) == {"live", "original", "dequantised", "written", "matrices_in_nf4", "matrices"}
    assert f"{metrics['trainable']['blocks_share']:.1%} of their numbers" in here.display.text.getvalue()


def test_an_epoch_ends_when_the_scarcest_source_was_read(tmp_path, tiny_model_folder, sources):  # noqa: F811
    method = {"kind": "half", "reselect": "per_epoch", "train_embeddings": "frozen"}
    changes = {"method": method, "tokens": None, "epochs": 3, "batch_size": 1, "mixture": {"target": 1.0}}
    metrics = stage(**changes).run(context(tmp_path / "run", tiny_model_folder, sources))
    turns = [turn["update"] for turn in metrics["selection"]["turns"]]
    assert len(turns) == 3
    assert turns[1] == pytest.approx(metrics["steps"] / 3, abs=1)
    with pytest.raises(AdaptError, match=r"draws anew after every .* train longer, or draw once for the stage"):
        stage(**changes | {"epochs": 1}).run(context(tmp_path / "short", tiny_model_folder, sources))


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "freeze", "train": ["last 1"], "train_embeddings": "frozen"},
        {"kind": "lisa", "layers": 1, "every": 3},
        {"kind": "spectrum"},
        "norms",
    ],
    ids=["freeze", "lisa", "spectrum", "norms"],
)
def test_the_siblings_through_the_stage(method, tmp_path, tiny_model_folder, sources):  # noqa: F811
    metrics = stage(method=method, evaluations=1).run(context(tmp_path / "run", tiny_model_folder, sources))
    assert metrics["merge"]["written"]["kl"] < 1e-6
    assert metrics["target"]["target"]["end"] < metrics["target"]["target"]["start"] + 0.05


def test_every_kind_is_in_the_table():
    kinds = {method.model_fields["kind"].default for method in METHODS}
    assert {"half", "freeze", "lisa", "spectrum", "bitfit", "norms"} <= kinds


def test_settings_that_do_not_go_together_are_complaints():
    bad = stage(method={"kind": "half", "frozen": "nf4", "reselect": {"every": 3}})
    found = [(complaint.path, complaint.message) for complaint in bad.complaints({})]
    assert found == [
        (
            ("method", "frozen"),
            "matrices in nf4 cannot train later; set reselect to per_stage, or frozen to plain",
        )
    ]
