"""mergekit's files give mergekit's results: every method, slices, gradients, filters, and which parameter wins."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from merge.engine import write
from merge.yaml_files import prepare_yaml
from tests.merge.yaml_files.harness import assert_equal, filled, mergekits, ours, relatives, weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("relatives")
    return {kind: relatives(root / kind, getattr(torch, kind)) for kind in ("float32", "bfloat16")}


def of(method, models, parameters=None, base="@base", **more):
    """A file; `models` are names, or names with their parameters."""
    listed = [{"model": f"@{name}"} | ({"parameters": own} if own else {}) for name, own in models.items()]
    content = {"merge_method": method, "models": listed, **more}
    return content | ({"base_model": base} if base else {}) | ({"parameters": parameters} if parameters else {})


W = {"a": {"weight": 0.7}, "b": {"weight": 0.4}}
CLASSIC = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
DETERMINISTIC = {
    "linear": of("linear", {"a": {"weight": [0.2, 1.0]}, "b": {"weight": 0.5}}, base=None),
    "linear without normalize": of("linear", {"a": {"weight": 0.3}, "b": {"weight": 0.5}}, {"normalize": False}, None),
    "slerp": of("slerp", {"base": None, "a": None}, {"t": CLASSIC}),
    "nuslerp": of("nuslerp", W, {"nuslerp_flatten": False}),
    "nuslerp without base": of("nuslerp", W, base=None),
    "multislerp": of("multislerp", W),
    "karcher": of("karcher", {"a": None, "b": None, "c": None}, {"max_iter": 20}, None),
    "task_arithmetic": of("task_arithmetic", W, {"normalize": True, "lambda": "1.2e0"}),
    "model_stock": of("model_stock", {"a": None, "b": None, "c": None}),
    "sce": of("sce", {"a": None, "b": None}, {"select_topk": 1}),
    "nearswap": of("nearswap", {"a": None}, {"t": 0.005}),
    "ram": of("ram", {"a": None, "b": None}),
    "ramplus_tl": of("ramplus_tl", {"a": None, "b": None}),
    "passthrough": of("passthrough", {"a": {"scale": [{"filter": "o_proj", "value": 0}, {"value": 1}]}}, base=None),
    "dare_linear of all": of("dare_linear", W, {"density": 1.0}),
}
SORTED = {
    "ties": of("ties", {"a": {"weight": 0.7, "density": [0.3, 0.9]}, "b": {"weight": 0.4}}, {"density": 0.5}),
    "breadcrumbs": of("breadcrumbs", W, {"density": 0.6, "gamma": 0.02, "int8_mask": True}),
    "breadcrumbs_ties": of("breadcrumbs_ties", W, {"density": 0.6}),
}
"""Methods that keep the largest elements: in bfloat16 many are equal, and mergekit's sort decides which are kept."""


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_methods(folders, tmp_path, name, kind):
    content = DETERMINISTIC[name] | {"dtype": "float32", "out_dtype": kind}
    theirs = mergekits(content, folders[kind], tmp_path)
    assert_equal(ours(content, folders[kind], tmp_path).weights, theirs, 2e-6)


@pytest.mark.parametrize("name", SORTED)
def test_methods_that_sort(folders, tmp_path, name):
    content = SORTED[name] | {"dtype": "float32"}
    theirs = mergekits(content, folders["float32"], tmp_path)
    assert_equal(ours(content, folders["float32"], tmp_path).weights, theirs)


def test_arcee_fusion_but_for_elements_at_the_threshold(folders, tmp_path):
    content = of("arcee_fusion", {"a": None}, dtype="float32")
    theirs = mergekits(content, folders["float32"], tmp_path)
    result = ours(content, folders["float32"], tmp_path).weights
    assert set(result) == set(theirs)
    off = sum(int(((result[name] - theirs[name]).abs() > 1e-6).sum()) for name in theirs)
    assert off <= 1e-3 * sum(tensor.numel() for tensor in theirs.values())


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_random_methods_change_what_mergekit_changes(folders, tmp_path, method):
    content = of(method, W, {"density": 0.5}, dtype="float32")
    theirs = mergekits(content, folders["float32"], tmp_path)
    result = ours(content, folders["float32"], tmp_path).weights
    assert {name: tensor.shape for name, tensor in result.items()} == {n: t.shape for n, t in theirs.items()}
    name = "model.layers.1.mlp.up_proj.weight"
    vectors = [found[name] - weights(folders["float32"]["base"])[name] for found in (result, theirs)]
    shares = [float((vector.abs() > 1e-9).float().mean()) for vector in vectors]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert float(vectors[0].norm()) == pytest.approx(float(vectors[1].norm()), rel=0.05)


def test_the_seed_decides_what_is_drawn(folders, tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text(filled(of("dare_ties", W, {"density": 0.5}), folders["float32"]))
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        write(prepare_yaml(file, seed), tmp_path / name)
    one, again, two = (weights(tmp_path / name) for name in ("one", "again", "two"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], two[name]) for name in one)


def slices(*parts, **more):
    found = [
        {"sources": [{"model": f"@{name}", "layer_range": span, **own} for name, span, own in sources], **settings}
        for sources, settings in parts
    ]
    return {"slices": found, "dtype": "float32", **more}


def test_layers_of_two_models_behind_each_other(folders, tmp_path):
    content = slices(
        ([("base", [0, 3], {})], {}),
        ([("a", [1, 4], {"parameters": {"scale": [{"filter": "down_proj", "value": 0.5}, {"value": 1}]}})], {}),
        merge_method="passthrough",
    )
    result = ours(content, folders["float32"], tmp_path)
    assert_equal(result.weights, mergekits(content, folders["float32"], tmp_path))
    config = json.loads((result.folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    model = AutoModelForCausalLM.from_pretrained(result.folder)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in result.weights.items())


@pytest.mark.parametrize("method", ["slerp", "task_arithmetic", "linear"])
def test_the_nearest_parameter_wins_and_filters_see_the_models_names(folders, tmp_path, method):
    near = {"weight": [{"filter": "layers.2.", "value": 0.9}, {"filter": "mlp", "value": [0.1, 0.6]}]}
    shared = {"t": [{"filter": "layers.0.", "value": 0.9}, {"filter": "mlp", "value": [0.1, 0.6]}]}
    parts = [
        ([("base", [0, 2], {}), ("a", [2, 4], {"parameters": near})], {"parameters": {"weight": 0.3}}),
        ([("base", [1, 4], {}), ("a", [0, 3], {})], {"parameters": {"weight": [0.2, 0.4]}}),
        ([("base", [3, 4], {}), ("a", [3, 4], {})], {}),
    ]
    if method == "slerp":
        bare = [[(name, span, {}) for name, span, _ in sources] for sources, _ in parts]
        parts = list(zip(bare, ({"parameters": shared}, {"parameters": {"t": [0.2, 0.4]}}, {}), strict=True))
    everywhere = {"t": [0.5, 0.8]} if method == "slerp" else {"weight": [0.5, 0.8]}
    content = slices(*parts, merge_method=method, base_model="@base", parameters=everywhere)
    theirs = mergekits(content, folders["float32"], tmp_path)
    assert_equal(ours(content, folders["float32"], tmp_path).weights, theirs)


def test_tied_models_stay_tied(tmp_path):
    tied = relatives(tmp_path / "models", torch.float32, tied=True, layers=2)
    content = of("ties", {"a": {"weight": 1}, "b": {"weight": 0.5}}, {"density": 0.4}, dtype="float32")
    result = ours(content, tied, tmp_path)
    assert_equal(result.weights, mergekits(content, tied, tmp_path))
    assert "lm_head.weight" not in result.weights
    assert json.loads((result.folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_type_is_that_of_out_dtype_then_dtype_then_the_models(folders, tmp_path):
    for index, (keys, expected) in enumerate(
        [
            ({"dtype": "float32", "out_dtype": "bfloat16"}, torch.bfloat16),
            ({"dtype": "float32"}, torch.float32),
            ({}, torch.bfloat16),
        ]
    ):
        place = tmp_path / str(index)
        place.mkdir()
        result = ours(of("linear", W, base=None, **keys), folders["bfloat16"], place)
        assert {tensor.dtype for tensor in result.weights.values()} == {expected}
