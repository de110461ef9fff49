"""Ranks found in training, and the average beside the adapter that trains."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from adapt.checkpoints import load_model
from adapt.methods.lora import Lora
from adapt.methods.low_rank.average import FOLDER, step_towards
from adapt.methods.low_rank.layers import factors_of, lora_layers
from adapt.methods.low_rank.rank_select import add_gates, shrink
from adapt.methods.low_rank.settings import Average, RankSelect
from adapt.methods.qlora import Qlora
from adapt.methods.vera import Vera
from tests.training.workshop import equal, finished, make_run, weights

TARGETS = ("q_proj", "down_proj")


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.floats(0.01, 1))
def test_the_pull_is_the_proximal_step_of_an_absolute_value(values, pull):
    """`argmin_x (x - g)^2 / 2 + k |x|`: no other point of a fine grid is better."""
    gate = torch.tensor(values, dtype=torch.float64)
    found = shrink(gate, pull)
    grid = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    cost = lambda x: (x - gate.unsqueeze(1)) ** 2 / 2 + pull * x.abs()  # noqa: E731
    assert (cost(found.unsqueeze(1)).squeeze(1) <= cost(grid.expand(len(gate), -1)).min(1).values + 1e-9).all()


def test_a_gate_of_one_is_lora_and_pulled_gates_leave_the_file(tmp_path, tiny_model_folder):
    method = Lora(r=4, targets=TARGETS, rank_select=RankSelect(shrink=0.05, begin=0, gate_rate=1))
    run = make_run(tiny_model_folder, tmp_path, method, steps=4)
    trained = finished(run, tiny_model_folder)
    base = load_model(trained.location, torch.float32).eval()
    assert torch.allclose(logits(run.model.eval(), trained.probe), logits(base, trained.probe), atol=1e-6)
    layers = lora_layers(run.model)
    with torch.no_grad():
        for place, layer in enumerate(layers.values()):
            layer.rank_gate[: place + 1] = 0.02
    numbers = run.execute()["rank_select"]
    assert list(numbers["ranks"].values()) == [3, 2, 1, 0]
    assert numbers["share"] == 6 / 16
    saved = method.save(trained, tmp_path)
    assert saved["merge"]["written"]["kl"] < 1e-6
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    written = [len(adapter[f"base_model.model.{name}.lora_A.weight"]) for name in layers]
    assert written == [3, 2, 1, 1]  # a file may not lack a layer
    plain = load_model(trained.location, torch.float32)
    ours = logits(PeftModel.from_pretrained(plain, tmp_path / "adapter").eval(), trained.probe)
    assert torch.allclose(ours, logits(run.model.eval(), trained.probe), atol=1e-5)


def test_ranks_that_nothing_needs_go_first():
    """Towards an update of rank 1 with gates on 6: what is fitted keeps a rank, a target of rank 0 keeps none."""
    left = {planted: planted_ranks(planted) for planted in (0, 1)}
    assert left[0] == 0
    assert 1 <= left[1] < 6


def planted_ranks(planted, pull=0.03, steps=400):
    torch.manual_seed(0)
    weight = nn.Linear(16, 16, bias=False).weight.detach()
    model = get_peft_model(
        nn.Sequential(nn.Linear(16, 16, bias=False)), LoraConfig(r=6, lora_alpha=6, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    layer.get_base_layer().weight.data = weight.clone()
    target = weight + torch.randn(16, planted) @ torch.randn(planted, 16) / 4
    add_gates(model, RankSelect())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        x = torch.randn(64, 16)
        loss = ((model(x) - x @ target.T) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            layer.rank_gate.copy_(shrink(layer.rank_gate, pull * (1 - step / steps) * (step > steps / 10)))
    assert loss < 1e-3
    return int(layer.rank_gate.count_nonzero())


def test_a_strong_pull_leaves_the_base(tmp_path, tiny_model_folder):
    method = Lora(r=2, targets=("k_proj",), rank_select=RankSelect(shrink=5, begin=0, gate_rate=1))
    run = make_run(tiny_model_folder, tmp_path, method, steps=3)
    assert run.execute()["rank_select"]["share"] == 0
    method.save(finished(run, tiny_model_folder), tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, tmp_path / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_average_is_that_of_the_products():
    torch.manual_seed(0)
    offline = torch.randn(6, 2), torch.randn(2, 5)
    online = offline[0] @ torch.randn(2, 2), offline[1]
    b, a = step_towards(offline, online, 0.75)
    assert torch.allclose(b @ a, 0.75 * offline[0] @ offline[1] + 0.25 * online[0] @ online[1], atol=1e-5)
    same = step_towards(offline, offline, 0.5)
    assert torch.allclose(same[0] @ same[1], offline[0] @ offline[1], atol=1e-5)


@pytest.mark.parametrize("method", [Lora, pytest.param(Qlora, marks=pytest.mark.slow)], ids=["lora", "qlora"])
def test_both_adapters_are_kept(method, tmp_path, tiny_model_folder):
    method = method(r=2, targets=TARGETS, average=Average(decay=0.5, every=2))
    settings = {"steps": 7, "checkpoint_every": 1, "keep_checkpoints": 10}
    run = make_run(tiny_model_folder, tmp_path / "a", method, **settings)
    run.execute()
    trained = finished(run, tiny_model_folder)
    saved = method.save(trained, tmp_path / "a")
    assert 0 < saved["offline"]["kl"] < 1
    config = json.loads((tmp_path / "a" / FOLDER / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    adapter = load_file(tmp_path / "a" / FOLDER / "adapter_model.safetensors")
    for name, layer in lora_layers(run.model).items():
        b, a = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "BA")
        live = factors_of(layer)
        assert 0 < (b @ a).norm() < (live[0] @ live[1]).norm()
    shutil.copytree(tmp_path / "a" / "checkpoints" / "checkpoint-5", tmp_path / "b" / "checkpoints" / "checkpoint-5")
    (tmp_path / "b" / "log.jsonl").write_text((tmp_path / "a" / "log.jsonl").read_text())
    again = make_run(tiny_model_folder, tmp_path / "b", method, **settings)
    again.execute()
    assert equal(weights(run), weights(again))
    for name, layer in lora_layers(run.model).items():
        for left, right in zip(layer.adapt_offline, lora_layers(again.model)[name].adapt_offline, strict=True):
            assert torch.equal(left, right)


def test_vera_is_written_as_lora(tmp_path, tiny_model_folder):
    method = Vera(r=24)
    run = make_run(tiny_model_folder, tmp_path, method, steps=3)
    trained = finished(run, tiny_model_folder)
    base = load_model(trained.location, torch.float32).eval()
    assert torch.equal(logits(run.model.eval(), trained.probe), logits(base, trained.probe))
    run.execute()
    assert method.save(trained, tmp_path)["merge"]["written"]["kl"] < 1e-6
    live = logits(run.model.eval(), trained.probe)
    ours = logits(PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), trained.probe)
    assert torch.allclose(ours, live, atol=1e-5)
    assert (live - logits(load_model(trained.location, torch.float32).eval(), trained.probe)).abs().max() > 1e-4
    assert [key for key, _ in Vera(targets=("lm_head",)).conflicts()] == ["targets"]
