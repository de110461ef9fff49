"""A mixture as a folder: written, loaded, its adapters peft's own; adapters that join and leave; what does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapt
from adapt.checkpoints import load_tokenizer
from adapt.errors import AdaptError
from adapt.mixture.assembly import rebuilt
from adapt.mixture.change import add_adapter, open_adapter, prune_adapter
from adapt.mixture.folder import save_mixture
from adapt.mixture.mixture import mixture_in
from adapt.mixture.routers.arrow import Arrow
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.token import Token
from tests.conftest import UKRAINIAN, make_model, make_tokenizer
from tests.mixture.shop import logits, mixed, some_ids, write_adapter

FILES = ("adapter_model.safetensors", "adapter_config.json")


def close(left, right):
    torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("gate", ["projection", "layer", "model"])
def test_what_is_saved_is_what_is_loaded(tmp_path, tiny_model_folder, adapters, gate):
    model = mixed(tiny_model_folder, adapters, Token(k=2), gate=gate, domains={"calendar": "dates"})
    expected = logits(model, some_ids())
    save_mixture(model, load_tokenizer(mixture_in(model).base.location), tmp_path)
    loaded, tokenizer = adapt.load_mixture(tmp_path)
    assert torch.equal(logits(loaded, some_ids()), expected)
    assert len(tokenizer) == 384
    assert mixture_in(loaded).known()["calendar"] == 0
    for name, folder in adapters.items():
        for file in FILES:
            assert (tmp_path / "adapters" / name / file).read_bytes() == (folder / file).read_bytes()
    assert loaded.generate(some_ids(), max_new_tokens=3).shape == (2, 15)


@pytest.mark.parametrize("router", [Token(k=2), Dense(), Arrow(k=1)], ids=lambda router: router.kind)
def test_an_adapter_joins_without_weight_and_leaves_without_trace(tiny_model_folder, adapters, router):
    two = {name: adapters[name] for name in ("dates", "numbers")}
    model = mixed(tiny_model_folder, two, router)
    before = logits(model, some_ids())
    add_adapter(model, "places", adapters["places"])
    close(logits(model, some_ids()), before)
    open_adapter(model, "places")
    assert not torch.allclose(logits(model, some_ids()), before)
    prune_adapter(model, "places")
    close(logits(model, some_ids()), before)


def test_the_order_of_adapters_does_not_matter(tmp_path, tiny_model_folder, adapters):
    model = mixed(tiny_model_folder, adapters, Token(k=2))
    before = logits(model, some_ids())
    parts = mixture_in(model).parts
    rebuilt(model, {name: parts[name] for name in ("places", "dates", "numbers")}, ())
    close(logits(model, some_ids()), before)


def changed(source, folder, tensors=None, **config):
    shutil.copytree(source, folder)
    file = folder / FILES[0]
    if tensors is not None:
        save_file(tensors(load_file(file)), file)
    settings = json.loads((folder / FILES[1]).read_text())
    (folder / FILES[1]).write_text(json.dumps(settings | config))
    return folder


def without_last(tensors):
    return dict(sorted(tensors.items())[:-1])


def without_a_layer(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj" not in name}


def wider(tensors):
    return {name: torch.cat([tensor, tensor], 0) if "lora_B" in name else tensor for name, tensor in tensors.items()}


BROKEN = {
    "missing half": ({"tensors": without_last}, "holds only lora_A of 'model.layers.1.self_attn.v_proj'"),
    "missing layer": ({"tensors": without_a_layer}, "is to change 'model.layers.1.self_attn.q_proj', but its"),
    "other shapes": ({"tensors": wider}, "maps 128 to 64; it was trained on another base"),
    "dora": ({"use_dora": True}, "is DoRA, whose magnitudes are no sum of updates"),
    "pissa": ({"init_lora_weights": "pissa"}, "took a part out of the base's weights"),
    "unknown base": ({"base_model_name_or_path": "some/where"}, "was trained over 'some/where', which is not here"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_an_adapter_that_does_not_fit_is_one_line(tmp_path, tiny_model_folder, adapters, case):
    changes, message = BROKEN[case]
    folder = changed(adapters["dates"], tmp_path / "broken", **changes)
    with pytest.raises(AdaptError) as error:
        mixed(tiny_model_folder, {"dates": folder, "numbers": adapters["numbers"]})
    assert message in str(error.value)
    assert str(error.value).startswith("adapter 'dates'")
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_or_vocabulary_is_refused(tmp_path, tiny_model_folder, adapters):
    other = tmp_path / "other"
    make_model(384, seed=9).save_pretrained(other)
    tokenizer = make_tokenizer(UKRAINIAN)
    tokenizer.save_pretrained(other)
    stranger = write_adapter(other, tmp_path / "stranger", 1, r=2, target_modules=["q_proj"])
    with pytest.raises(AdaptError, match="was trained over another base: the weights of"):
        mixed(tiny_model_folder, {"dates": stranger, "numbers": adapters["numbers"]})
    grown = changed(adapters["dates"], tmp_path / "grown")
    tokenizer.save_pretrained(grown)
    with pytest.raises(AdaptError, match=r"trained on another vocabulary: '.*' has id .* there and .* in the base"):
        mixed(tiny_model_folder, {"dates": grown, "numbers": adapters["numbers"]})
    whole = write_adapter(
        tiny_model_folder, tmp_path / "whole", 1, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]
    )
    with pytest.raises(AdaptError, match="changes 'lm_head', which is no linear layer of a block"):
        mixed(tiny_model_folder, {"dates": whole, "numbers": adapters["numbers"]})
    with pytest.raises(AdaptError, match="router 'token': k is 3, but there are 2 adapters; set k to at most 2"):
        mixed(tiny_model_folder, {name: adapters[name] for name in ("dates", "numbers")}, Token(k=3))


def test_a_mixture_s_own_mistakes_are_one_line(tmp_path, tiny_model_folder, adapters):
    model = mixed(tiny_model_folder, adapters, Token(k=2))
    routing = mixture_in(model).routing
    with pytest.raises(AdaptError, match="no domain 'moons' in this mixture; its domains are dates, numbers, places"):
        routing.naming("moons").__enter__()
    with pytest.raises(AdaptError, match="has an adapter 'dates' already"):
        add_adapter(model, "dates", adapters["dates"])
    with pytest.raises(AdaptError, match="no adapter 'moons'; it has dates, numbers, places"):
        prune_adapter(model, "moons")
    prune_adapter(model, "places")
    with pytest.raises(AdaptError, match="k is 2, but there are 1 adapters"):
        prune_adapter(model, "dates")
    with pytest.raises(AdaptError, match="holds no mixture"):
        adapt.load_mixture(tmp_path)
