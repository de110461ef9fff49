"""The plain models of mixtures are written tensor by tensor: the sums, the channels, and the base's own bytes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.methods.base import Trained
from adapt.methods.domain_adapter import DomainAdapter
from adapt.methods.mixture_of_lora import MixtureOfLora
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import parallel_layers
from adapt.mixture.mixture import layers_of, mixture_in
from adapt.mixture.plain import write_dense
from adapt.mixture.routers.token import Token
from adapt.mixture.saving import save_trained, write_average
from adapt.training.precision import Precision
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.mixture.domain_world import ids_of, logits, stir
from tests.mixture.shop import mixed, write_adapter

SUBSETS = {"dates": ["q_proj", "down_proj"], "numbers": ["q_proj"]}


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def base(request, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("mixtures") / request.param, make_tokenizer(ENGLISH)
    model = make_model(len(tokenizer), tied=request.param == "bf16")
    (model.bfloat16() if request.param == "bf16" else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_over(model, base) -> Trained:
    location = ModelLocation(str(base))
    tokenizer = load_tokenizer(location)
    rows = MixtureOfLora(new=2, train="joint").rows(model, "none", location, tokenizer)
    return Trained(model, location, tokenizer, rows, Precision(torch.device("cpu"), bf16=False), ids_of())


@pytest.fixture
def lora_mixture(base, tmp_path):
    folders = {
        name: write_adapter(base, tmp_path / name, seed, r=2 + seed, target_modules=targets)
        for seed, (name, targets) in enumerate(SUBSETS.items())
    }
    location = ModelLocation(str(base))
    torch.manual_seed(0)
    return mixture_of(load_model(location, torch.float32), folders, Token(spread=1.0), base=Base.of(location)).eval()


def test_the_sum_of_a_mixture_is_written_from_the_base_s_file(lora_mixture, base, tmp_path):
    model = lora_mixture
    weights = {name: {"dates": 0.25, "numbers": 0.5} for name in layers_of(model)}
    proof, _ = write_average(trained_over(model, base), weights, tmp_path / "model")
    assert proof == {"reload_difference": 0}
    written, stored = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", base))
    assert written.keys() == stored.keys()
    for name, tensor in written.items():
        layer, expected = layers_of(model).get(name.removesuffix(".weight")), stored[name].float()
        if layer is None:
            assert torch.equal(tensor, stored[name])
            continue
        for adapter, weight in {"dates": 0.25, "numbers": 0.5}.items():
            own = layer.stack.factors(adapter)
            expected = expected + (0 if own is None else weight * own.scale * own.b.float() @ own.a.float())
        assert not torch.equal(tensor, stored[name])
        assert torch.allclose(
            tensor.float(), expected, rtol=2**-8 if tensor.dtype == torch.bfloat16 else 1e-5, atol=1e-6
        )
    assert not (tmp_path / "model" / "merge.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", *SUBSETS}


def test_a_mixture_s_folder_and_model_are_both_proven(lora_mixture, base, tmp_path):
    trained = trained_over(lora_mixture, base)
    numbers = save_trained(trained, tmp_path / "stage")
    assert numbers["reload_difference"] < 1e-4
    assert numbers["collapse"]["kl"] > 0
    assert "held_whole" not in numbers
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == ["mixture", "model"]
    assert mixture_in(trained.model).averages.keys() == layers_of(trained.model).keys()


def test_channels_are_appended_to_the_base_s_file(base, tmp_path):
    model = DomainAdapter(width=5, layers=(-1,)).attach(load_model(ModelLocation(str(base)), torch.float32))
    stir(model)
    numbers = write_dense(trained_over(model, base), tmp_path)
    assert numbers["dense"] == {"form": "channels", "added": 5}
    assert "held_whole" not in numbers
    written, stored = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", base))
    assert written.keys() == stored.keys()
    for name, tensor in written.items():
        dimension = 1 if "down_proj" in name else 0
        own = tensor.narrow(dimension, 0, stored[name].shape[dimension])
        assert torch.equal(own, stored[name])
        added = tensor.narrow(dimension, stored[name].shape[dimension], tensor.shape[dimension] - own.shape[dimension])
        assert bool(added.any()) == ("layers.1.mlp" in name)
        assert added.shape[dimension] == (5 if ".mlp." in name else 0)
    units = next(iter(parallel_layers(model).values())).domains
    found = written["model.layers.1.mlp.down_proj.weight"][:, -5:]
    assert torch.allclose(found.float(), units.up.detach(), rtol=2**-8)
    dense = load_model(ModelLocation(str(tmp_path / "model")), torch.float32).eval()
    assert torch.allclose(logits(dense, ids_of()), logits(model.eval(), ids_of()), atol=0.05)


def test_a_base_with_other_names_on_the_disk_is_held_as_a_whole(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = make_tokenizer(ENGLISH)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "vocab_size": len(tokenizer), "num_local_experts": 2, "pad_token_id": 1}
    MixtralForCausalLM(MixtralConfig(**size, **more)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapter = write_adapter(tmp_path / "base", tmp_path / "dates", 1, r=2, target_modules=["q_proj"])
    model = mixed(tmp_path / "base", {"dates": adapter, "again": adapter})
    numbers = save_trained(trained_over(model, tmp_path / "base"), tmp_path / "stage")
    assert "on the disk has another name or shape in memory" in numbers["held_whole"]
