"""What the report says of methods: which tensors trained, 4 bits, pruning, ranks, restarts, the average."""

from __future__ import annotations

import pytest

from adapt.report.blocks import Table, Text
from adapt.report.page import build
from adapt.report.sections.methods import SHOWN, methods, rank_select, selection
from tests.report.sample import TRAIN, write_stage

LAYER = "model.layers.{}.{}.weight"
MEASURED = {"kl": 0.0123, "top1_agreement": 0.9731}
METRICS = {
    "selection": {
        "turns": [{"update": 0, "digest": "x", "shares": {"attention": 0.5, "feed_forward": 0.3333}}],
        "trained": [LAYER.format(0, "self_attn.q_proj"), LAYER.format(2, "mlp.up_proj"), "model.norm.weight"],
        "kinds": ["self_attn.q_proj", "mlp.up_proj"],
        "layers": 5,
    },
    "exchange": {
        "live": {"bits_per_byte": 1.2345},
        "original": {**MEASURED, "bits_per_byte": 1.3456},
        "dequantised": {"kl": 0.00021, "top1_agreement": 0.9991, "bits_per_byte": 1.2347},
        "written": "original",
        "matrices_in_nf4": 7,
        "matrices": 14,
    },
    "pruned": {"whole_parameters": 123_456, "parameters": 65_432, "storage_ratio": 4.8712},
    "pruned_copy": MEASURED,
    "restarts": {"restarts": 3},
    "rank_select": {"share": 0.4321, "ranks": {"model.layers.0.self_attn.q_proj": 7, "model.layers.1.mlp.up_proj": 0}},
    "offline": {"kl": 0.00456, "top1_agreement": 0.9876},
    "merge": {"written": MEASURED},
}
SAID = {
    "selection": ["Which tensors trained", "3 to 4", "33.3%"],
    "exchange": ["1.3456", "with what the 4 bits stand for", "7 of 14 matrices stood frozen"],
    "pruned": ["65,432 of 123,456 parameters", "4.87 times less", "1.23e-02 nats per token"],
    "restarts": ["begun anew 3 times", "4-fold"],
    "rank_select": ["43.2% of the ranks are left"],
    "offline": ["offline, the moving average", "4.56e-03", "1.23e-02"],
}


def texts(row) -> list[str]:
    return [cell.text for cell in row]


@pytest.mark.parametrize("key", SAID)
def test_each_is_told_and_no_other(tmp_path, key):
    keys = {key, "merge", *(["pruned_copy"] if key == "pruned" else [])}
    metrics = TRAIN | {name: METRICS[name] for name in keys}
    page = build(tmp_path, "x", {"cpt": write_stage(tmp_path, "cpt", "train", metrics)}).read_text(encoding="utf-8")
    for said in SAID[key]:
        assert said in page
    assert not any(other in page for name, (other, *_) in SAID.items() if name != key)


def test_what_trained_is_a_map_of_layers_and_kinds():
    grid, shares = selection(METRICS["selection"])
    assert isinstance(grid, Table)
    assert [texts(row) for row in grid.rows] == [
        ["0", "trains", ""],
        ["1", "", ""],
        ["2", "", "trains"],
        ["3 to 4", "", ""],
    ]
    assert texts(shares.rows[0]) == ["0", "50%", "33.3%"]
    assert len(selection({"trained": [LAYER.format(1, "mlp.up_proj")]})[0].rows) == 2  # of an older manifest
    assert selection({"trained": ["model.norm.weight"]}) == []


def test_ranks_are_a_map_of_layers_and_kinds():
    (grid,) = rank_select(METRICS["rank_select"])
    assert [texts(row) for row in grid.rows] == [["0", "7", ""], ["1", "", "0"]]


def test_a_stage_without_them_says_nothing():
    assert methods({}) == []
    assert all(isinstance(block, (Table, Text)) for block in methods(METRICS))
    assert {*SAID, "pruned_copy"} == SHOWN
