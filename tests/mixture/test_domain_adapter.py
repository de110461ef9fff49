"""Stage 1: a bottleneck beside feed-forward layers learns a domain, keeps the old output, and becomes a plain model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.methods.domain_adapter import DomainAdapter
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import parallel_layers
from adapt.mixture.domain_folder import check_base, read_domain_adapter
from adapt.mixture.feed_forward import extra, feed_forwards, widened_config, widening
from adapt.mixture.insertion import chosen_layers
from adapt.mixture.live import load_live
from adapt.mixture.plain import channels_of
from tests.conftest import make_model
from tests.mixture.domain_world import ids_of, logits, run, stage, stir

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 384}
FAMILIES = {
    "llama": lambda: make_model(384),
    "llama_bias": lambda: make_model(384, mlp_bias=True),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=384)).eval(),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=64, **SMALL)).eval(),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["ffn", "relu"])
def test_the_start_is_the_base(family, activation):
    model, ids = FAMILIES[family](), ids_of()
    before = logits(model, ids)
    DomainAdapter(width=4, activation=activation).attach(model)
    assert parallel_layers(model)
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_as_channels_it_is_the_same_model(family):
    model, ids = FAMILIES[family](), ids_of()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = logits(model, ids)
    DomainAdapter(width=5, layers=(-1,)).attach(model)
    stir(model)
    expected = logits(model, ids)
    assert (expected - before).abs().max() > 1e-3
    channels = {name: channels_of(layer) for name, layer in parallel_layers(model).items()}
    assert extra(channels) == 5
    dense = type(model)(widened_config(model.config, 5)).eval()
    for name, change in widening(feed_forwards(model), channels).items():
        before, state[name] = state[name].shape, change.of(state[name].float())
        assert state[name].shape == change.shape(before)
    dense.load_state_dict(state)
    assert torch.allclose(logits(dense, ids), expected, atol=1e-5)


def test_layers_are_those_of_the_paper_where_none_are_named():
    assert chosen_layers((), 12) == [7, 11]
    assert chosen_layers((), 1) == [0]
    assert chosen_layers((-1, 0, 3), 4) == [0, 3]
    with pytest.raises(AdaptError, match="layers: there is no layer 4; the model has 4, 0 to 3"):
        chosen_layers((4,), 4)


def test_an_architecture_without_known_layers_is_one_line():
    model = make_model(384)
    model.config.num_hidden_layers = 3
    with pytest.raises(AdaptError, match="2 of the 3 blocks of 'llama' have a feed-forward layer of a form known here"):
        feed_forwards(model)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_folder):
    """The same stage with and without the sampling loss."""
    folder, method = tmp_path_factory.mktemp("domain"), {"kind": "domain_adapter", "width": 16, "layers": [0, 1]}
    weights = {"kept": 30.0, "free": 1e-9}
    return folder, {
        name: run(folder / name, tiny_model_folder, method={**method, "keep": weight})
        for name, weight in weights.items()
    }


def test_it_learns_the_domain_and_is_written_exactly(runs, tiny_model_folder):
    folder, metrics = runs
    for name, numbers in metrics.items():
        assert numbers["target"]["uk"]["end"] < numbers["target"]["uk"]["start"] - 0.05
        assert numbers["dense"] == {"form": "channels", "added": 16}
        assert numbers["merge"]["written"]["kl"] < 1e-6
        assert numbers["reload_difference"] < 1e-4
        config = json.loads((folder / name / "model" / "config.json").read_text())
        assert config["intermediate_size"] == 128 + 16
    base, written = (load_file(path / "model.safetensors") for path in (tiny_model_folder, folder / "kept" / "model"))
    for key, tensor in base.items():  # the base is the part of it that it was
        part = tuple(slice(0, size) for size in tensor.shape)
        assert torch.equal(written[key][part], tensor)


def test_the_sampling_loss_keeps_the_output_on_general_text(runs):
    _, metrics = runs
    kept, free = metrics["kept"], metrics["free"]
    assert kept["sampling"]["tokens"] == free["sampling"]["tokens"] > 500
    assert kept["sampling"]["mean"] < 0.5 * free["sampling"]["mean"]
    drift = {name: abs(entry["general"]["end"] - entry["general"]["start"]) for name, entry in metrics.items()}
    assert drift["kept"] < drift["free"]


def test_its_folder_fits_its_base_alone(runs, tiny_model_folder, tmp_path):
    adapter = read_domain_adapter(runs[0] / "kept" / "adapter")
    assert adapter.width == 16
    assert sorted(adapter.layers) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    check_base("uk", adapter, Base.of(ModelLocation(str(tiny_model_folder))))
    with pytest.raises(AdaptError, match=r"domain adapter 'uk' was trained over another base: the weights of '.*tiny'"):
        check_base("uk", adapter, Base.of(ModelLocation(str(runs[0] / "kept" / "model"))))
    with pytest.raises(AdaptError, match="holds no domain adapter"):
        read_domain_adapter(tmp_path)


@pytest.mark.slow
def test_another_activation_is_absorbed_by_least_squares(tmp_path, tiny_model_folder):
    method = {"kind": "domain_adapter", "width": 8, "activation": "gelu", "over": "nf4", "keep": 0}
    numbers = run(tmp_path / "run", tiny_model_folder, method=method, tokens="3k", mixture={"uk": 1})
    assert numbers["dense"]["form"] == "least_squares"
    assert 0 < numbers["dense"]["lost"] < 0.9
    assert numbers["merge"]["written"]["kl"] < 0.2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.intermediate_size == 128


def test_a_mixture_without_general_text_is_one_line():
    found = {c.path: c.message for c in stage(method={"kind": "domain_adapter"}, mixture={"uk": 1}).complaints({})}
    assert list(found) == [("method", "keep")]
    assert "the mixture has no source of it" in found["method", "keep"]
    alone = stage(method={"kind": "domain_adapter"}, mixture={"general": 1}).complaints({})
    assert [c.message for c in alone] == ["the mixture has only 'general', whose output is kept; add the domain's text"]


def test_the_adapter_over_its_base_is_the_written_model(runs):
    location = ModelLocation(str(runs[0] / "kept" / "adapter"))
    live, tokenizer = load_live(location)
    assert torch.allclose(
        logits(live, ids_of()), logits(load_live(ModelLocation(str(runs[0] / "kept/model")))[0], ids_of()), atol=1e-5
    )
    assert tokenizer("45")["input_ids"]
