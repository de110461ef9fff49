"""Adapters, our own form, whose files an output has, configurations of sliced models, and mergekit as the engine."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from merge.checkpoint import Checkpoint
from merge.engine import write
from merge.errors import MergeError
from merge.planning import prepare
from merge.yaml_files import prepare_yaml, run_mergekit
from merge.yaml_files.by_mergekit import _command
from merge.yaml_files.document import read_yaml
from merge.yaml_files.schema import read_merge_file
from merge.yaml_files.settings_files import config_of_slices
from tests.conftest import make_model
from tests.merge.yaml_files.harness import assert_equal, filled, mergekits, ours, relatives, weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return relatives(tmp_path_factory.mktemp("models"), torch.float32, layers=2)


@pytest.fixture(scope="module")
def adapter(folders, tmp_path_factory):
    """A rank-4 LoRA of the base that was trained at random."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(make_model(384), config)
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    model.save_pretrained(folder)
    return folder


def test_a_model_with_an_adapter(folders, adapter, tmp_path):
    models = [{"model": f"@a+{adapter}", "parameters": {"weight": 0.5}}, {"model": "@b", "parameters": {"weight": 1}}]
    content = {"merge_method": "task_arithmetic", "base_model": "@base", "dtype": "float32", "models": models}
    theirs = mergekits(content, folders, tmp_path)
    assert_equal(ours(content, folders, tmp_path).weights, theirs)
    content["tokenizer_source"] = "@a"
    (tmp_path / "again").mkdir()
    assert_equal(ours(content, folders, tmp_path / "again").weights, theirs)


def test_layers_with_an_adapter(folders, adapter, tmp_path):
    source = {"model": f"@base+{adapter}", "layer_range": [1, 2]}
    content = {"merge_method": "passthrough", "dtype": "float32", "slices": [{"sources": [source]}] * 2}
    assert_equal(ours(content, folders, tmp_path).weights, mergekits(content, folders, tmp_path))


def test_an_adapter_without_its_model(folders, adapter, tmp_path):
    (tmp_path / "m.yaml").write_text(f"merge_method: passthrough\nmodels:\n  - model: {adapter}\n")
    with pytest.raises(MergeError, match=r"line 3: '.*lora' is an adapter; write the model that it changes before it"):
        prepare_yaml(tmp_path / "m.yaml")


def test_our_own_form(folders, tmp_path):
    text = 'models: {a: "@a", b: "@b", base: "@base"}\nexpression: "a + 0.8 * (b - base)"\ndtype: bfloat16\n'
    text += "special_from: a\n"
    result = ours(text, folders, tmp_path)
    expected = prepare("a + 0.8 * (b - base)", folders, torch.bfloat16, special_from="a")
    write(expected, tmp_path / "expected")
    assert all(torch.equal(tensor, result.weights[name]) for name, tensor in weights(tmp_path / "expected").items())
    assert (result.folder / "merge.yaml").read_text() == filled(text, folders)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expresion: a\nmodels: {a: x}\n", r"line 1: the file has no 'expresion'; there are merge_method"),
        ("expression: a\nmodel: {a: x}\n", r"line 2: the file has no 'model'; did you mean 'models'\?"),
        ("expression: a\n", r"line 1: the file lacks 'models'"),
        ("expression: a +\nmodels: {a: x}\n", r"line 1: 'a \+', character 4: "),
        ("expression: tiess(a)\nmodels:\n  a: '@a'\n", r"line 1: .*character 1: there is no method 'tiess'"),
        ("expression: a\nmodels:\n  a: '@a'\n  b: '@b'\n", r"line 3: 'b=.*' is given, but the expression does not nam"),
        ("expression: a\nmodels:\n  a: [1]\n", r"line 3: a is a list; it is text"),
        ("expression: a\nmodels:\n  a: '@a'\ndtype: int8\n", r"line 4: dtype: 'int8' is no type of weights"),
    ],
)
def test_mistakes_in_our_own_form(folders, tmp_path, text, message):
    (tmp_path / "m.yaml").write_text(filled(text, folders))
    with pytest.raises(MergeError, match=message):
        prepare_yaml(tmp_path / "m.yaml")


def test_without_a_base_the_first_model_gives_the_files(folders, tmp_path):
    """mergekit takes the files of a random one of them."""
    for first, second in (("a", "b"), ("b", "a")):
        (tmp_path / f"{first}.yaml").write_text(
            filled(
                {"merge_method": "linear", "parameters": {"weight": 1}, "models": [{"model": f"@{first}"}]}
                | {"models": [{"model": f"@{first}"}, {"model": f"@{second}"}]},
                folders,
            )
        )
        merge = prepare_yaml(tmp_path / f"{first}.yaml")
        assert merge.anchor.folder == merge.tokenizer.folder == folders[first]


def test_lists_with_an_entry_for_each_layer_are_cut_along(folders, tmp_path):
    configs = {name: json.loads((folders[name] / "config.json").read_text()) for name in ("base", "a")}
    layers = {
        "layer_types": ["full_attention", "sliding_attention"],
        "eos_token_id": [0, 1],
        "architectures": ["x", "y"],
    }
    models = {str(folders[name]): Checkpoint(str(folders[name]), folders[name]) for name in ("base", "a")}
    for name in configs:
        models[str(folders[name])].config = configs[name] | layers
    sources = [[("base", 0, 1)], [("a", 1, 2)], [("base", 0, 2)]]
    slices = [{"sources": [{"model": f"@{n}", "layer_range": [i, j]} for n, i, j in found]} for found in sources]
    path = tmp_path / "m.yaml"
    path.write_text(filled({"merge_method": "passthrough", "slices": slices}, folders))
    file = read_merge_file(read_yaml(path)[0], path, "")
    anchor = models[str(folders["base"])]
    kinds = ["full_attention", "sliding_attention"]
    expected = {"num_hidden_layers": 4, "layer_types": [kinds[0], kinds[1], *kinds]}
    assert config_of_slices(file, anchor, models) == expected
    anchor.config = {"text_config": anchor.config}
    assert config_of_slices(file, anchor, models)["text_config"]["layer_types"] == expected["layer_types"]


def test_layers_of_different_shapes_are_refused(folders, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in folders["a"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name][:100].clone()}, other / "model.safetensors", metadata={"format": "pt"})
    sources = [{"model": "@base", "layer_range": [0, 1]}, {"model": "@other", "layer_range": [1, 2]}]
    content = {
        "merge_method": "slerp",
        "base_model": "@base",
        "slices": [{"sources": sources}],
        "parameters": {"t": 0.5},
    }
    (tmp_path / "m.yaml").write_text(filled(content, folders | {"other": other}))
    with pytest.raises(
        MergeError, match=r"'model.layers.0.mlp.up_proj.weight' has shape \[128, 64\] in .* \[100, 64\]"
    ):
        prepare_yaml(tmp_path / "m.yaml")


LINEAR = {"merge_method": "linear", "models": [{"model": "@a"}, {"model": "@b"}], "parameters": {"weight": 1}}


@pytest.mark.slow
def test_mergekit_itself(folders, tmp_path):
    file, out = tmp_path / "m.yaml", tmp_path / "out"
    file.write_text(filled(LINEAR, folders))
    run_mergekit(file, out)
    assert_equal(weights(out), ours(LINEAR, folders, tmp_path).weights)
    assert (out / "mergekit_config.yml").read_text() == file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.yaml", "merge.yaml", "ours", "out"]
    with pytest.raises(MergeError, match="is not empty"):
        run_mergekit(file, out)


def test_a_failure_of_mergekit_is_one_line_and_leaves_nothing(folders, tmp_path, monkeypatch):
    file = tmp_path / "m.yaml"
    file.write_text(filled(LINEAR, folders))
    monkeypatch.setattr("merge.yaml_files.by_mergekit._YAML", "mergekit.scripts.none")
    with pytest.raises(MergeError, match=r"mergekit could not merge '.*': .*No module named .*none") as error:
        run_mergekit(file, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.slow
def test_a_mixture_of_experts_by_mergekit(folders, tmp_path):
    file = tmp_path / "m.yaml"
    experts = [{"source_model": f"@{name}", "positive_prompts": [name]} for name in ("a", "b")]
    content = {"base_model": "@base", "gate_mode": "random", "dtype": "float32", "experts": experts}
    file.write_text(filled(content, folders))
    run_mergekit(file, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_local_experts"] == 2
    assert torch.equal(weights(tmp_path / "out")["model.norm.weight"], weights(folders["base"])["model.norm.weight"])


def test_which_of_mergekits_commands_is_run(tmp_path, monkeypatch):
    file = tmp_path / "m.yaml"

    def command(content):
        file.write_text(yaml.safe_dump(content))
        return _command(read_yaml(file)[0], file, tmp_path / "out")

    assert command({"experts": []})[1:] == ["-m", "mergekit.scripts.moe", str(file), str(tmp_path / "out")]
    with pytest.raises(MergeError, match=r"mergekit-evolve needs .*cma.*pip install 'mergekit\[evolve\]'"):
        command({"genome": {}})
    monkeypatch.setitem(sys.modules, "mergekit", None)
    with pytest.raises(MergeError, match="mergekit is not installed; install it with"):
        run_mergekit(file, tmp_path / "out")
