"""Restarts: the whole update outgrows the rank of one, is written as an exact sum, and survives a kill."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError
from adapt.methods.lora import Lora
from adapt.methods.low_rank.conflicts import unprunable
from adapt.methods.low_rank.layers import lora_layers, put_weight, weight_of
from adapt.methods.low_rank.refactor import prune_moments
from adapt.methods.low_rank.settings import Refactor
from adapt.methods.qlora import Qlora
from adapt.training.optimizer import Optimizer
from adapt.training.optimizers import OPTIMIZERS
from adapt.training.optimizers.galore import Galore
from adapt.training.precision import Precision
from tests.training.workshop import equal, finished, make_run, weights

EVERY_TWO = Refactor(every=2, warmup=1)
TARGETS = ("q_proj", "up_proj")


def changes(folder, base):
    before, after = (load_file(path / "model.safetensors") for path in (base, folder / "model"))
    return {name: after[name].double() - before[name].double() for name in before}


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_written_update_has_the_rank_of_all_restarts(dora, tmp_path, tiny_model_folder):
    from peft import PeftModel

    method = Lora(r=2, targets=TARGETS, refactor=EVERY_TWO, dora=dora)
    run = make_run(tiny_model_folder, tmp_path, method, steps=6)
    numbers = run.execute()
    assert numbers["restarts"] == {"restarts": 2}
    trained = finished(run, tiny_model_folder)
    saved = method.save(trained, tmp_path)
    assert saved["merge"]["written"]["kl"] < 1e-6
    assert saved["merge"]["written"]["top1_agreement"] == 1
    if not dora:
        ranks = {
            name: int((torch.linalg.svdvals(d) > 1e-6).sum())
            for name, d in changes(tmp_path, tiny_model_folder).items()
            if "proj" in name
        }
        assert {rank for name, rank in ranks.items() if "q_proj" in name or "up_proj" in name} == {6}
        assert {rank for name, rank in ranks.items() if "v_proj" in name} == {0}
    plain = load_model(trained.location, torch.float32)
    ours = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    written = load_model(ModelLocation(str(tmp_path / "model"))).eval()
    with torch.inference_mode():
        assert torch.allclose(ours(trained.probe).logits, written(trained.probe).logits, atol=1e-5)


def test_more_ranks_than_the_matrix_has(tmp_path, tiny_model_folder):
    method = Lora(r=16, targets=("k_proj",), refactor=Refactor(every=1, warmup=0))
    run = make_run(tiny_model_folder, tmp_path, method, steps=6)
    run.execute()
    saved = method.save(finished(run, tiny_model_folder), tmp_path)
    assert saved["merge"]["written"]["kl"] < 1e-6
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert max(min(tensor.shape) for tensor in adapter.values()) == 32


@pytest.mark.parametrize(("method", "stopped"), [(Lora, 4), (Lora, 5), (Qlora, 5)], ids=["float32", "later", "nf4"])
def test_going_on_is_the_straight_run_bit_for_bit(method, stopped, tmp_path, tiny_model_folder):
    method = method(r=2, targets=TARGETS, refactor=EVERY_TWO)
    settings = {"steps": 7, "checkpoint_every": 1, "keep_checkpoints": 10}
    straight = make_run(tiny_model_folder, tmp_path / "straight", method, **settings)
    straight.execute()
    name = f"checkpoints/checkpoint-{stopped}"
    shutil.copytree(tmp_path / "straight" / name, tmp_path / "resumed" / name)
    (tmp_path / "resumed" / "log.jsonl").write_text((tmp_path / "straight" / "log.jsonl").read_text())
    resumed = make_run(tiny_model_folder, tmp_path / "resumed", method, **settings)
    resumed.execute()
    assert equal(weights(straight), weights(resumed))
    for (_, left), (_, right) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(left, right)
    for (_, left), (_, right) in zip(straight.model.named_buffers(), resumed.model.named_buffers(), strict=True):
        assert torch.equal(left, right)


def test_over_four_bits_finished_updates_stay_in_float(tmp_path, tiny_model_folder):
    method = Qlora(r=2, targets=TARGETS, refactor=EVERY_TWO, merge_into="best")
    run = make_run(tiny_model_folder, tmp_path, method, steps=6)
    run.execute()
    layer = lora_layers(run.model)["model.layers.0.self_attn.q_proj"]
    assert layer.beside_a.shape == (4, 64)
    assert layer.beside_a.dtype == torch.float32
    choice = method.save(finished(run, tiny_model_folder), tmp_path)["base_choice"]
    assert choice["written"] == "dequantised"
    assert choice["dequantised"]["kl"] < 1e-3


def test_quantising_the_sum_would_lose_the_update(tmp_path, tiny_model_folder):
    """Why finished updates stay beside weights in 4 bits: what the weight keeps of them when it is rounded again."""
    model = Qlora(targets=TARGETS).load(ModelLocation(str(tiny_model_folder)), Precision(torch.device("cpu"), False))
    model = Qlora(targets=TARGETS).attach(model)
    layer = lora_layers(model)["model.layers.0.mlp.up_proj"]
    before = weight_of(layer)
    update = torch.randn(before.shape[0], 2) @ torch.randn(2, before.shape[1])
    update *= 0.02 * before.norm() / update.norm()  # the size that an update of a few hundred steps has
    put_weight(layer, before + update)
    error = (weight_of(layer) - before - update).norm() / update.norm()
    assert error > 0.8


def test_the_rate_rises_again_after_a_restart(tmp_path, tiny_model_folder):
    method = Lora(r=2, targets=TARGETS, refactor=Refactor(every=3, warmup=2))
    run = make_run(tiny_model_folder, tmp_path, method, steps=7)
    run.execute()
    rates = [event["learning_rate"] for event in run.log.read("train")]
    plan = run.plan
    plain = [plan.schedule.peak * plan.schedule.rate(update, 7) for update in range(7)]
    shares = [round(rate / own, 6) for rate, own in zip(rates, plain, strict=True)]
    assert shares == [1, 1, 1, 0.25, 0.75, 1, 0.25]


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_moments_are_pruned_together(share):
    parameter = torch.nn.Parameter(torch.zeros(200, 50))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.randn(200, 50)
    optimizer.step()
    prune_moments(optimizer, parameter, share, torch.Generator().manual_seed(0))
    if share == 1:
        assert parameter not in optimizer.state
        return
    first, second = (optimizer.state[parameter][name] != 0 for name in ("exp_avg", "exp_avg_sq"))
    assert torch.equal(first, second)
    assert 0.08 < first.float().mean() < 0.12
    assert optimizer.state[parameter]["step"] == 1


def test_a_run_that_is_too_short_or_whose_moments_are_packed_is_one_line(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path / "a", Lora(r=2, refactor=Refactor(every=60)), steps=6)
    with pytest.raises(AdaptError, match=r"refactor\.every is 60, but the run has 6 updates.*set it to at most 5"):
        run.execute()
    packed = Optimizer(kind="adamw_8bit")
    run = make_run(tiny_model_folder, tmp_path / "b", Lora(r=2, refactor=EVERY_TWO), steps=6, optimizer=packed)
    with pytest.raises(AdaptError, match=r"refactor\.prune is 0\.999.*set refactor\.prune to 1"):
        run.execute()
    for place, optimizer in enumerate((packed, Galore(kind="galore_adamw", rank=1))):  # whose state goes as a whole
        method = Lora(r=2, targets=TARGETS, refactor=Refactor(every=2, warmup=1, prune=1))
        run = make_run(tiny_model_folder, tmp_path / f"c{place}", method, steps=5, optimizer=optimizer)
        assert run.execute()["restarts"] == {"restarts": 2}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_that_are_not_those_of_single_weights_are_not_pruned_one_by_one(optimizer):
    """By the state that a real step leaves: every tensor of it but a count has the weight's shape."""
    kind = optimizer.model_fields["kind"].annotation.__args__[0]
    rank = {"rank": 2} if "rank" in optimizer.model_fields else {}
    settings = optimizer(kind=kind, **rank)
    parameter = torch.nn.Parameter(torch.randn(40, 30))
    made = settings.make([{"params": [parameter]}], [], 1e-3)
    parameter.grad = torch.randn(40, 30)
    made.step()
    tensors = [value for value in made.state[parameter].values() if isinstance(value, torch.Tensor) and value.dim()]
    assert all(value.shape == parameter.shape for value in tensors) == (not settings.moments)
    assert bool(list(unprunable(EVERY_TWO, settings))) == bool(settings.moments)


def test_an_update_that_is_still_zero_is_left_alone(tmp_path, tiny_model_folder):
    run = make_run(tiny_model_folder, tmp_path, Lora(r=2, targets=TARGETS, refactor=EVERY_TWO), steps=6)
    restarts = run.companions[0]
    kept = {name: layer.lora_A["default"].weight.clone() for name, layer in restarts.layers.items()}
    restarts.trainer = run  # has a plan, which is all that is asked
    restarts.on_step_end(None, type("State", (), {"global_step": 2})(), None)
    assert restarts.finished == [{}]
    assert all(torch.equal(kept[name], layer.lora_A["default"].weight) for name, layer in restarts.layers.items())
    assert restarts.changed() == set()
