"""freeze, spectrum, bitfit and norms: what each chooses, and what each says where there is nothing to choose."""

from __future__ import annotations

import json

import pytest
import torch

from adapt.errors import AdaptError
from adapt.methods.bitfit import Bitfit
from adapt.methods.freeze import Freeze
from adapt.methods.lisa import Lisa
from adapt.methods.norms import Norms
from adapt.methods.selection import signal
from adapt.methods.selection.signal import cache_key, signal_to_noise
from adapt.methods.spectrum import Spectrum
from tests.conftest import ENGLISH, make_model, make_tokenizer
from tests.training.workshop import finished, is_number, make_run, weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adapt" / "signal_to_noise.json"


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "four"
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer), num_hidden_layers=4).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_names(base, folder, method) -> set[str]:
    run = make_run(base, folder, method)
    return {name for name in weights(run) if "embed" not in name and "lm_head" not in name}


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"train": ("0-1",)}, {0, 1}),
        ({"train": ("last 1", 0)}, {0, 3}),
        ({"freeze": ("first 3",)}, {3}),
        ({"train": ("1-3",), "freeze": ("2",)}, {1, 3}),
    ],
)
def test_layers_by_number_and_by_end(settings, layers, tmp_path, four_layers):
    names = trained_names(four_layers, tmp_path, Freeze(**settings))
    assert {int(name.split(".")[2]) for name in names if ".layers." in name} == layers
    assert ("model.norm.weight" in names) == ("train" not in settings)


def test_patterns_reach_single_parameters(tmp_path, four_layers):
    names = trained_names(four_layers, tmp_path, Freeze(train=("*.mlp.*", "*norm.weight"), freeze=("*.up_proj.*",)))
    assert {name.split(".")[-2] for name in names} == {
        "gate_proj",
        "down_proj",
        "input_layernorm",
        "post_attention_layernorm",
        "norm",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train": ("*.k_porj.*",)},
            r"method\.train: '\*\.k_porj\.\*' matches nothing.*no part of .* is 'k_porj', the nearest is 'k_proj'",
        ),
        ({"freeze": ("7-9",)}, r"method\.freeze: '7-9' matches nothing of this model; its layers are 0-3"),
        ({"freeze": ("*",)}, r"method 'freeze' trains nothing of this model"),
    ],
)
def test_what_matches_nothing_is_one_line(settings, message, tmp_path, four_layers):
    with pytest.raises(AdaptError, match=message):
        make_run(four_layers, tmp_path, Freeze(**settings))
    assert [key for key, _ in Freeze().conflicts()] == ["freeze"]


def test_norms_and_biases(tmp_path, four_layers):
    assert {name.split(".")[-1] for name in trained_names(four_layers, tmp_path, Norms())} == {"weight"}
    assert len(trained_names(four_layers, tmp_path, Norms())) == 9
    with pytest.raises(AdaptError, match=r"method 'bitfit': a llama has no biases to train; take method 'norms'"):
        make_run(four_layers, tmp_path, Bitfit())


def test_biases_train_and_their_weights_do_not(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(ENGLISH)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(**size, num_key_value_heads=1, vocab_size=len(tokenizer), pad_token_id=1)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    method = Bitfit()
    run = make_run(tmp_path / "base", tmp_path, method, steps=2)
    numbers = run.execute()
    names = numbers["selection"]["trained"]
    assert len(names) == 6
    assert all(name.endswith("bias") for name in names)
    assert numbers["trainable"]["share"] < 0.01
    assert is_number(method.save(finished(run, tmp_path / "base"), tmp_path)["reload_difference"])


def test_more_layers_at_a_time_than_there_are(tmp_path, four_layers):
    with pytest.raises(AdaptError, match=r"method\.layers is 4, but the model has 4 layers.*set it to at most 3"):
        make_run(four_layers, tmp_path, Lisa(layers=4))


def test_the_ratio_is_the_formula_and_sees_a_planted_signal():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(48, 96, generator=generator)
    planted = noise + 30 * torch.outer(torch.ones(48), torch.randn(96, generator=generator)) / 48**0.5
    import numpy

    for weight in (noise, planted, planted.T):
        values = numpy.linalg.svd(weight.double().numpy(), compute_uv=False)
        low, high = numpy.quantile(values, [0.25, 0.75])
        edge = (high - low) / 1.349 * (1 + 0.5**0.5)
        expected = values[values > edge].sum() / values[values <= edge].sum() / values.max()
        assert signal_to_noise(weight) == pytest.approx(expected, rel=1e-4)
    assert signal_to_noise(planted) != signal_to_noise(noise)
    both = torch.stack([noise, planted])
    assert signal_to_noise(both) == pytest.approx((signal_to_noise(noise) + signal_to_noise(planted)) / 2)


def test_spectrum_trains_the_best_layers_of_each_kind_and_asks_once(cache, tmp_path, four_layers, monkeypatch):
    first = trained_names(four_layers, tmp_path / "a", Spectrum(share=0.5))
    matrices = sorted(name for name in first if "proj" in name)
    assert len(matrices) == 14
    known = json.loads(cache.read_text())
    assert len(known) == 28
    monkeypatch.setattr(signal, "signal_to_noise", lambda weight: pytest.fail("computed again"))
    assert trained_names(four_layers, tmp_path / "b", Spectrum(share=0.5)) == first
    few = trained_names(four_layers, tmp_path / "c", Spectrum(share=0.01))
    assert len([name for name in few if "proj" in name]) == 7
    weights_of = dict(make_run(four_layers, tmp_path / "d", Norms()).model.named_parameters())
    for kind in ("self_attn.q_proj", "mlp.down_proj"):
        ranked = sorted(
            range(4),
            key=lambda layer: -known[cache_key(weights_of[f"model.layers.{layer}.{kind}.weight"])],
        )
        chosen = {int(name.split(".")[2]) for name in matrices if kind in name}
        assert chosen == set(ranked[:2])


def test_a_broken_cache_is_computed_again(cache, tmp_path, four_layers):
    cache.parent.mkdir(parents=True)
    cache.write_text("{")
    assert trained_names(four_layers, tmp_path, Spectrum())
    assert len(json.loads(cache.read_text())) == 28
