"""Every start of an update: the model is the base at first, and what is written is right over the original base."""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from adapt.checkpoints import ModelLocation, load_model
from adapt.methods.live_base import dequantised_weights
from adapt.methods.lora import Lora
from adapt.methods.low_rank.factors import add, loftq, olora, pissa, truncate
from adapt.methods.low_rank.layers import lora_layers, weight_of
from adapt.methods.qlora import Qlora
from adapt.training.precision import Precision
from tests.training.workshop import finished, make_run

CPU = Precision(torch.device("cpu"), False)
STARTS = {
    "gaussian": {},
    "orthogonal": {},
    "pissa": {},
    "pissa-patterns": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "pissa-dora": {"dora": True},
    "olora": {"rslora": True},
    "eva": {},
    "eva-fa": {"lora_fa": True},
}


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def on_the_plain_base(folder, base, ids):
    model = PeftModel.from_pretrained(load_model(ModelLocation(str(base)), torch.float32), folder).eval()
    return logits(model, ids)


SLOW = ("gaussian", "orthogonal", "olora")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in STARTS])
def test_what_is_written_is_what_trained(name, tmp_path, tiny_model_folder):
    method = Lora(r=4, init=name.split("-")[0], targets=("q_proj", "v_proj", "down_proj"), **STARTS[name])
    run = make_run(tiny_model_folder, tmp_path, method, steps=3)
    trained = finished(run, tiny_model_folder)
    frozen = {name: p.detach().clone() for name, p in run.model.named_parameters() if not p.requires_grad}
    assert any(".lora_A" in name for name in frozen) is method.lora_fa
    base = logits(load_model(trained.location, torch.float32).eval(), trained.probe)
    assert torch.allclose(logits(run.model.eval(), trained.probe), base, atol=1e-4)
    run.execute()
    live = logits(run.model.eval(), trained.probe)
    assert (live - base).abs().max() > 0.01
    assert all(torch.equal(run.model.get_parameter(name), tensor) for name, tensor in frozen.items())
    saved = method.save(trained, tmp_path)
    assert saved["merge"]["written"]["kl"] < 1e-6
    written = logits(load_model(ModelLocation(str(tmp_path / "model"))).eval(), trained.probe)
    assert torch.allclose(written, live, atol=1e-4)
    assert torch.allclose(on_the_plain_base(tmp_path / "adapter", tiny_model_folder, trained.probe), live, atol=1e-4)


def test_the_merge_command_reads_the_summed_adapter(tmp_path, tiny_model_folder):
    from merge.engine import write
    from merge.planning import prepare

    method = Lora(r=4, init="pissa", targets=("q_proj", "o_proj"), alpha_pattern={"o_proj": 5})
    run = make_run(tiny_model_folder, tmp_path, method, steps=2)
    run.execute()
    method.save(finished(run, tiny_model_folder), tmp_path)
    write(prepare("base + lora", {"base": tiny_model_folder, "lora": tmp_path / "adapter"}), tmp_path / "merged")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "merged"))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in ours)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_the_parts_are_those_of_peft(kind):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(24, 16, bias=False))
    weight = plain[0].weight.detach().clone()
    layer = get_peft_model(plain, LoraConfig(r=4, lora_alpha=4, target_modules=["0"], init_lora_weights=kind))
    layer = layer.base_model.model[0]
    b, a = {"pissa": pissa, "olora": olora}[kind](weight, 4)
    assert torch.allclose(b @ a, layer.lora_B["default"].weight @ layer.lora_A["default"].weight, atol=1e-5)
    assert torch.allclose(weight - b @ a, layer.base_layer.weight, atol=1e-5)


@pytest.mark.parametrize("kind", ["pissa", "olora", "loftq"])
def test_over_four_bits(kind, tmp_path, tiny_model_folder):
    """Closer to the base than NF4 alone at first; both exchanges of the base are measured, and the adapter is whole."""
    method = Qlora(r=16, init=kind, merge_into="best")
    run = make_run(tiny_model_folder, tmp_path, method, steps=3)
    originals = load_model(ModelLocation(str(tiny_model_folder)), torch.float32).state_dict()
    plain = dequantised_weights(Qlora().load(ModelLocation(str(tiny_model_folder)), CPU))
    for name, layer in lora_layers(run.model).items():
        original = originals[f"{name}.weight"]
        update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        error = (weight_of(layer) + update - original).norm()
        if kind != "olora":
            assert error < (plain[f"{name}.weight"]() - original).norm()
    run.execute()
    saved = method.save(finished(run, tiny_model_folder), tmp_path)
    choice = saved["base_choice"]
    assert choice["written"] == "dequantised"
    assert choice["dequantised"]["kl"] < 2e-3
    assert choice["original"]["kl"] < 0.1
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 32


def test_loftq_halves_the_error_of_four_bits():
    torch.manual_seed(1)
    weight = torch.randn(32, 48)
    coarse = lambda w: (w * 2).round() / 2  # noqa: E731
    b, a = loftq(weight, 8, coarse)
    assert (coarse(weight - b @ a) + b @ a - weight).norm() < 0.8 * (coarse(weight) - weight).norm()


def test_lora_fa_leaves_a_alone_and_corrects_as_peft_does(tmp_path, tiny_model_folder):
    from peft.optimizers import create_lorafa_optimizer

    runs = [make_run(tiny_model_folder, tmp_path / str(fa), Lora(r=4, lora_fa=fa)) for fa in (True, False)]
    assert not any("lora_A" in name for name, p in runs[0].model.named_parameters() if p.requires_grad)
    theirs = create_lorafa_optimizer(runs[1].model, r=4, lora_alpha=8, lr=1e-3)
    ids = torch.arange(60).reshape(2, 30)
    for run in runs:
        torch.manual_seed(0)
        run.model(input_ids=ids, labels=ids).loss.backward()
    theirs.step()
    compared = 0
    for name, parameter in runs[0].model.named_parameters():
        if "lora_B" in name:
            expected = theirs.state[name.split("lora_")[0] + "lora"]["exp_avg_B"] / 0.1
            assert (parameter.grad - expected).norm() < 0.02 * expected.norm()  # peft computes it in bf16
            compared += 1
    assert compared == 14
    before = {name: tensor.clone() for name, tensor in runs[0].model.state_dict().items() if "lora_A" in name}
    for parameter in runs[0].model.parameters():
        parameter.grad = None
    runs[0].execute()
    after = runs[0].model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_lora_plus_is_a_rate_of_its_own(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=4, lora_plus=16), steps=1)
    optimizer = run.plan.optimizer.build(run.model, run.rows, 1e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in run.model.named_parameters():
        if "lora_" in name:
            assert rates[id(parameter)] == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3)
    run.execute()


def test_patterns_reach_the_layers(tiny_model_folder):
    method = Lora(r=4, rank_pattern={r"layers\.0\..*_proj": 2, "down_proj": 6}, alpha_pattern={"down_proj": 3})
    model = method.attach(method.load(ModelLocation(str(tiny_model_folder)), CPU))
    layers = lora_layers(model)
    assert layers["model.layers.0.mlp.up_proj"].r["default"] == 2
    assert layers["model.layers.0.mlp.up_proj"].scaling["default"] == 2
    assert layers["model.layers.1.mlp.down_proj"].r["default"] == 6
    assert layers["model.layers.1.mlp.down_proj"].scaling["default"] == 0.5
    assert layers["model.layers.1.mlp.up_proj"].scaling["default"] == 2


@pytest.mark.parametrize("rank", [3, 5, 12])
def test_a_sum_of_factors_is_exact_whatever_its_rank(rank):
    generator = torch.Generator().manual_seed(rank)
    parts = [(torch.randn(7, rank, generator=generator), torch.randn(rank, 9, generator=generator)) for _ in range(3)]
    b, a = add(parts)
    assert torch.allclose(b @ a, sum(b @ a for b, a in parts), atol=1e-4)
    assert b.shape[1] == a.shape[0] == min(3 * rank, 7)
    whole = b @ a
    b, a = truncate((b, a), 2)
    u, s, v = torch.linalg.svd(whole)
    assert torch.allclose(b @ a, u[:, :2] * s[:2] @ v[:2], atol=1e-3)


CONFLICTS = [
    ({"init": "loftq"}, "init", "this base is not quantised"),
    ({"lora_fa": True, "dora": True}, "lora_fa", "not of dora"),
    ({"lora_fa": True, "lora_plus": 4}, "lora_plus", "A does not train"),
    ({"refactor": {"every": 40}}, "refactor", r"warmup is 50, .* set it below every \(40\)"),
    ({"refactor": {"every": 80}, "lora_fa": True}, "refactor", "draws A anew"),
    ({"refactor": {"every": 80}, "average": {}}, "refactor", "sets the update to zero, which average follows"),
    ({"rank_select": {}, "dora": True}, "rank_select", "without gates"),
    ({"rank_select": {}, "init": "pissa"}, "rank_select", "loses what init 'pissa' took out"),
    ({"rank_pattern": {"(": 3}}, "rank_pattern", r"'\(' is no regular expression"),
    ({"targets": ("lm_head",)}, "targets", "'lm_head' is an embedding; use train_embeddings"),
]


@pytest.mark.parametrize(("settings", "key", "message"), CONFLICTS, ids=[str(entry[0]) for entry in CONFLICTS])
def test_what_does_not_go_together_is_one_line(settings, key, message):
    found = list(Lora.model_validate(settings).conflicts())
    assert [name for name, _ in found] == [key]
    assert re.search(message, found[0][1])
