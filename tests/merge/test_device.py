"""Merges on another device than the CPU: nothing is made in the wrong place, and the result has the same bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from merge.commands import app
from merge.device import BLOCKS, device_of
from merge.engine import merged, write
from merge.errors import MergeError
from merge.lep import learn, propagate
from merge.methods import METHODS, merge_tensors
from merge.planning import prepare
from merge.random import uniform
from merge.yaml_files import prepare_yaml
from tests.merge.away import DEVICE, away
from tests.merge.family import make_family
from tests.merge.methods.harness import values
from tests.merge.test_adapters import make_adapter

SETTINGS = {
    "density": 0.4,
    "t": 0.4,
    "weight": 0.7,
    "gamma": 0.1,
    "epsilon": 0.1,
    "select_topk": 0.5,
    "granularity": "element",
    "nuslerp_flatten": False,
    "filter_wise": True,
}
EXPRESSIONS = (
    "cpt + 0.8 * (instruct - base)",
    "cpt + 0.8 * (chatml - base)",
    "ties(base, [cpt: 1.0, chatml: 0.5], density=0.3)",
    "della(base, [cpt: 1.0, instruct: 0.5], density=0.3, epsilon=0.1, seed=3)",
    "0.5 * cpt + 0.5 * slerp(base, instruct, t=0.4)",
    "base + 0.7 * plain",
    "base + 0.5 * dora + 0.2 * whole",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    found = make_family(root).folders
    kinds = {"plain": {}, "dora": {"use_dora": True}, "whole": {"modules_to_save": ["lm_head"]}}
    for name, settings in kinds.items():
        make_adapter(found["base"], root / name, **settings)
    return found | {name: root / name for name in kinds}


BY_INNER_PRODUCTS = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock")
"""Methods whose sums are numpy's in host memory and torch's elsewhere: they differ in the last bits."""


def tensors(merge):
    """Every tensor of the result, in the calling thread."""
    return {
        output.name: torch.cat([block.reshape(-1).clone() for _, block in merged(merge, output)])
        for output in merge.outputs
    }


def assert_same_bytes_there(merge):
    expected = tensors(merge)
    with away() as device:
        found = tensors(replace(merge, device=device))
    if any(name in merge.combination.text for name in BY_INNER_PRODUCTS):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)
    else:
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_computes_where_its_inputs_lie(name, flat):
    method = METHODS[name]()
    count = method.count[1] or max(2, method.count[0])
    own = {p.name for p in method.parameters}
    settings = {key: value for key, value in SETTINGS.items() if key in own}
    if flat:  # the other half of the switches: one angle, one ratio, one draw
        settings = {key: value for key, value in settings.items() if not isinstance(value, bool | str)}
    elif "nuslerp_row_wise" in own:
        settings["nuslerp_row_wise"] = True
    generator = torch.Generator().manual_seed(1)
    base, *models = (torch.randn(31, 57, generator=generator) for _ in range(count + 1))
    ground = None if method.base == "none" else base
    expected = merge_tensors(method, models, ground, values(method, count, **settings), seed=5, size=400)
    with away() as device:
        there = [model.to(device) for model in models]
        ground = None if ground is None else ground.to(device)
        found = merge_tensors(method, there, ground, values(method, count, **settings), seed=5, size=400)
        assert found.device == device
        if name in BY_INNER_PRODUCTS:
            torch.testing.assert_close(found.cpu(), expected, rtol=2e-6, atol=1e-6)
        else:
            assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_merge_computes_there_and_writes_the_same_bytes(folders, expression, monkeypatch):
    monkeypatch.setitem(BLOCKS, "cuda", 20_000)
    assert_same_bytes_there(prepare(expression, folders))


def test_rows_by_maps_and_filled_rows(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(BLOCKS, "cuda", 20_000)
    assert_same_bytes_there(learn(propagate(folders, mode="overlap"), ridge=0.01))
    (tmp_path / "merge.yaml").write_text(
        f"models: [{{model: {folders['cpt']}, parameters: {{weight: 1}}}}, {{model: {folders['chatml']}, parameters: "
        f"{{weight: 0.5}}}}]\nbase_model: {folders['base']}\nmerge_method: task_arithmetic\n"
        "tokenizer: {source: union, pad_to_multiple_of: 64}\n"
    )
    assert_same_bytes_there(prepare_yaml(tmp_path / "merge.yaml"))


def test_draws_are_the_same_on_every_device():
    with away() as device:
        found = uniform((3, "a"), 2**31 - 70_000, 140_000, device)
        assert found.device == DEVICE
        assert torch.equal(found.cpu(), uniform((3, "a"), 2**31 - 70_000, 140_000))


def test_the_stand_in_refuses_what_a_gpu_refuses():
    with away() as device:
        there = torch.ones(3, device=device)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "there is no device 'gpu'; give cpu, cuda or cuda:N"),
        ("cpu:0", "there is no device 'cpu:0'; give cpu, cuda or cuda:N"),
        ("cuda:x", "there is no device 'cuda:x'; give cpu, cuda or cuda:N"),
        ("cuda", "'cuda' needs a GPU that torch can use, and there is none here; give cpu"),
    ],
)
def test_devices_that_there_are_not(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MergeError) as error:
        device_of(name)
    assert str(error.value) == message


def test_the_option_and_the_key_of_a_file(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    models = [f"{name}={folders[name]}" for name in ("cpt", "instruct", "base")]
    what = ["cpt + (instruct - base)", *models, "-o", str(tmp_path / "out"), "--quiet"]
    refused = CliRunner().invoke(app, [*what, "--device", "cuda"])
    assert refused.exit_code == 1
    assert "needs a GPU" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(app, [*what, "--device", "cpu"]).exit_code == 0
    again = write(
        prepare("cpt + (instruct - base)", folders), tmp_path / "again", threads=1, device=torch.device("cpu")
    )
    assert again["output"]["fingerprint"] in (tmp_path / "out" / "merge.json").read_text()
    named = "".join(f"  {name}: {folders[name]}\n" for name in ("cpt", "instruct", "base"))
    file = tmp_path / "merge.yaml"
    file.write_text(f"expression: cpt + (instruct - base)\nmodels:\n{named}device: cuda\n")
    with pytest.raises(MergeError, match="line 6: device: 'cuda' needs a GPU"):
        prepare_yaml(file)
    file.write_text(f"expression: cpt + (instruct - base)\nmodels:\n{named}device: cpu\nnew_rows: lep-overlap\n")
    assert prepare_yaml(file).carried.mode == "overlap"
    file.write_text(f"expression: cpt + (instruct - base)\nmodels:\n{named}new_rows: lep\n")
    with pytest.raises(MergeError, match="line 6: new_rows: there is no 'lep' for new rows"):
        prepare_yaml(file)
