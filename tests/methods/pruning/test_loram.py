"""LoRAM: what is pruned is a structure, what is recovered is exact, and nothing else of the whole model moves."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model
from adapt.errors import AdaptError
from adapt.methods.lora import Lora
from adapt.methods.loram import Loram
from adapt.methods.low_rank.layers import factors_of, lora_layers
from adapt.methods.pruned import Pruned
from adapt.methods.pruning.importance import best
from adapt.methods.pruning.prune import choose, cut, kept_in
from adapt.methods.pruning.recovery import PRUNED_FILE
from adapt.methods.pruning.settings import Pruning
from adapt.methods.pruning.structure import families
from tests.conftest import make_model
from tests.training.workshop import equal, finished, make_run, weights

HALF = Pruning(ratio=0.5, criterion="magnitude")


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize(
    ("criterion", "frozen"), [("taylor", "plain"), ("taylor", "nf4"), ("magnitude", "nf4"), ("random", "plain")]
)
def test_the_recovered_update_is_the_trained_one_and_zero_elsewhere(criterion, frozen, tmp_path, tiny_model_folder):
    from peft import PeftModel

    method = Loram(r=4, prune=Pruning(ratio=0.5, layers={"1": 0.75}, criterion=criterion), frozen=frozen)
    run = make_run(tiny_model_folder, tmp_path, method, steps=3)
    numbers = run.execute()["pruned"]
    assert numbers["parameters"] < numbers["whole_parameters"]
    assert numbers["storage_ratio"] == pytest.approx(2.146 if frozen == "nf4" else 1.536, abs=1e-3)
    trained = finished(run, tiny_model_folder)
    method.save(trained, tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, tmp_path / "model"))
    layers = lora_layers(run.model)
    assert len(layers) == 14
    for name, layer in layers.items():
        b, a = factors_of(layer)
        kept = kept_in(layer.get_base_layer())
        moved = after.pop(f"{name}.weight") - before[f"{name}.weight"]
        assert torch.allclose(kept.of(moved), b @ a, atol=1e-6)
        assert (kept.rows is None) != (kept.columns is None)
        inner = torch.zeros(moved.shape, dtype=torch.bool)
        inner[kept.rows if kept.rows is not None else slice(None)] = True
        if kept.columns is not None:
            inner[:] = False
            inner[:, kept.columns] = True
        assert not moved[~inner].any()
        assert moved[inner].any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    ours = PeftModel.from_pretrained(load_model(trained.location, torch.float32), tmp_path / "adapter").eval()
    written = load_model(ModelLocation(str(tmp_path / "model"))).eval()
    assert torch.allclose(logits(ours, trained.probe), logits(written, trained.probe), atol=1e-5)


def test_with_nothing_pruned_it_is_lora_bit_for_bit(tmp_path, tiny_model_folder):
    small = make_run(tiny_model_folder, tmp_path / "a", Loram(r=4, prune=Pruning(ratio=0)), steps=3)
    plain = make_run(tiny_model_folder, tmp_path / "b", Lora(r=4), steps=3)
    for run in (small, plain):
        run.execute()
    assert equal(weights(small), weights(plain))
    saved = Loram(r=4).save(finished(small, tiny_model_folder), tmp_path / "a")
    assert saved["merge"]["written"]["kl"] < 1e-6


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (4, 4), (4, 1)])
def test_a_pruned_model_is_the_whole_one_with_those_parts_at_zero(heads, groups):
    """A head or channel whose columns of the way out are zero is not there."""
    model = make_model(60, num_attention_heads=heads, num_key_value_heads=groups)
    masked = make_model(60, num_attention_heads=heads, num_key_value_heads=groups)
    kept = choose(model, HALF, lambda: iter(()))
    cut(model, kept)
    for name, coordinates in kept.items():
        if coordinates.columns is not None:
            weight = masked.get_submodule(name).weight.data
            gone = torch.ones(weight.shape[1], dtype=torch.bool)
            gone[coordinates.columns] = False
            weight[:, gone] = 0
    ids = torch.arange(40).unsqueeze(0)
    assert torch.allclose(logits(model, ids), logits(masked, ids), atol=1e-5)
    assert model.model.layers[0].self_attn.k_proj.out_features == 16 * max(1, groups // 2)
    assert model.model.layers[0].mlp.up_proj.out_features == 64


def test_taylor_finds_what_the_loss_needs():
    """A channel with large weights that nothing reads does not matter; magnitude would keep it."""
    model = make_model(60)
    feed_forward = model.model.layers[0].mlp
    with torch.no_grad():
        feed_forward.up_proj.weight[5] *= 50
        feed_forward.down_proj.weight[:, 5] = 0
    ids = torch.arange(48).reshape(2, 24)
    batches = lambda: iter([{"input_ids": ids, "labels": ids}])  # noqa: E731
    kinds = ("taylor", "magnitude")
    found = {kind: choose(model, Pruning(ratio=0.5, criterion=kind), batches) for kind in kinds}
    columns = {criterion: kept["model.layers.0.mlp.down_proj"].columns.tolist() for criterion, kept in found.items()}
    assert 5 in columns["magnitude"]
    assert 5 not in columns["taylor"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_aligned_copy_is_handed_on(tmp_path, tiny_model_folder):
    align = Pruned(prune=HALF)
    run = make_run(tiny_model_folder, tmp_path / "aligned", align, steps=4)
    run.execute()
    align.save(finished(run, tiny_model_folder), tmp_path / "aligned")
    aligned = tmp_path / "aligned" / "model"
    base, whole = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, aligned))
    assert all(torch.equal(base[name], whole[name]) for name in base)
    assert (aligned / PRUNED_FILE).exists()
    small = make_run(aligned, tmp_path / "small", Loram(r=4), steps=2)
    ids = torch.arange(30).unsqueeze(0)
    assert torch.allclose(logits(small.model.eval(), ids), logits(run.model.eval(), ids), atol=1e-5)
    small.execute()
    saved = Loram(r=4).save(finished(small, aligned), tmp_path / "small")
    assert saved["reload_difference"] < 1e-4
    with pytest.raises(AdaptError, match=r"is pruned already .* take prune out of the method"):
        make_run(aligned, tmp_path / "twice", Loram(prune=HALF))
    with pytest.raises(AdaptError, match=r"holds no adapt_pruned\.safetensors; set prune in the method"):
        make_run(tiny_model_folder, tmp_path / "none", Loram())


def test_settings():
    pruning = Pruning(ratio=0.5, layers={"0-1": 0, "3": 0.2})
    assert pruning.ratios(5) == [0, 0, 0.5, 0.2, 0.5]
    assert list(Pruning(layers={"3-1": 0}).mistakes()) == ["'3-1' is no range of layers; write for example 0-3"]
    assert best(torch.tensor([3.0, 1.0, 2.0, 5.0]), 0.5).tolist() == [0, 3]
    assert best(torch.tensor([3.0, 1.0]), 1.0).tolist() == [0]
    model = make_model(60)
    with pytest.raises(AdaptError, match=r"prune\.layers: '0-7' goes past the model's last layer, 1"):
        choose(model, Pruning(layers={"0-7": 0}), lambda: iter(()))
    for method in (Loram(prune=Pruning(), init="pissa"), Loram(prune=Pruning(), dora=True)):
        assert len(list(method.conflicts())) == 1


def test_another_architecture_is_one_line():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20))
    model.base_model.layers = model.transformer.h
    with pytest.raises(AdaptError, match="layer 0 of 'gpt2' cannot be pruned: it has no separate q_proj"):
        families(model)
