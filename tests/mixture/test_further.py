"""A mixture that trains further: what it has learned is taken over, adapters that join begin with scores of zero."""

from __future__ import annotations

import json

import pytest
import torch

import adapt
from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods.mixture_of_lora import MixtureOfLora
from adapt.mixture.folder import save_mixture
from adapt.mixture.mixture import layers_of, mixture_in, routers_of
from adapt.mixture.routers.token import Token
from adapt.mixture.starting import start
from tests.conftest import make_model
from tests.mixture.shop import logits, mixed, some_ids


@pytest.fixture
def folder(tmp_path, tiny_model_folder, adapters):
    """Two of the three adapters behind gates that choose two and learned something."""
    two = {name: adapters[name] for name in ("dates", "numbers")}
    model = mixed(tiny_model_folder, two, Token(k=2), domains={"calendar": "dates"})
    save_mixture(model, load_tokenizer(mixture_in(model).base.location), tmp_path / "mixture")
    return tmp_path / "mixture"


def built(base, folder, **settings):
    """The model that a stage over `base` begins with."""
    method = MixtureOfLora(from_mixture=str(folder), **settings)
    assert list(method.conflicts()) == []
    location = ModelLocation(str(base))
    return start(method.resolved({}, {}), load_model(location), location, lambda: iter(()))


def test_it_begins_where_the_mixture_stands(tiny_model_folder, folder):
    model = built(tiny_model_folder, folder)
    assert torch.equal(logits(model.eval(), some_ids()), logits(adapt.load_mixture(folder)[0], some_ids()))
    assert mixture_in(model).known()["calendar"] == 0
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {f"{path}.router.weight" for path in routers_of(model)}


@pytest.mark.parametrize("joint", [False, True])
def test_an_adapter_that_joins_learns_when_it_is_chosen(tiny_model_folder, folder, adapters, joint):
    before = {path: gate.weight.detach().clone() for path, gate in routers_of(adapt.load_mixture(folder)[0]).items()}
    train = "joint" if joint else "gates"
    model = built(tiny_model_folder, folder, adapters={"places": str(adapters["places"])}, train=train)
    assert mixture_in(model).names == ("dates", "numbers", "places")
    for path, gate in routers_of(model).items():
        assert torch.equal(gate.weight[2], torch.zeros_like(gate.weight[2]))
        assert path not in before or torch.equal(gate.weight[:2], before[path])
    model(input_ids=some_ids(), labels=some_ids()).loss.backward()
    assert any(gate.weight.grad[2].abs().max() > 0 for gate in routers_of(model).values())
    for layer in layers_of(model).values():
        assert layer.stack.trainable == (frozenset(mixture_in(model).names) if joint else frozenset())


def test_new_adapters_join_at_zero(tiny_model_folder, folder):
    model = built(tiny_model_folder, folder, new=1, r=2, targets=("q_proj",), train="joint")
    assert mixture_in(model).names == ("dates", "numbers", "new_1")
    for name, layer in layers_of(model).items():
        assert (layer.stack.factors("new_1") is not None) == ("q_proj" in name)


def test_an_adapter_without_weight_gets_some(tiny_model_folder, folder):
    file = folder / "mixture.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"closed": ["numbers"]}))
    closed = adapt.load_mixture(folder)[0]
    assert not any(gate.allowed[1] for gate in routers_of(closed).values())
    assert all(gate.allowed.all() for gate in routers_of(built(tiny_model_folder, folder)).values())


def test_what_does_not_go_together_is_one_line(tiny_model_folder, folder, adapters, tmp_path):
    places = str(adapters["places"])
    found = dict(MixtureOfLora(from_mixture="gates/mixture", router=Token(k=1), gate="model").conflicts())
    assert found["router"] == "the router of 'gates/mixture' is taken over; leave router out"
    assert found["gate"] == "the gate of 'gates/mixture' is taken over; leave gate out"
    with pytest.raises(AdaptError, match="has an adapter 'dates' already; give the other another name"):
        built(tiny_model_folder, folder, adapters={"dates": places})
    with pytest.raises(AdaptError, match=r"method\.train: new adapters begin at zero, and gates alone do not change"):
        built(tiny_model_folder, folder, new=1)
    with pytest.raises(
        AdaptError, match=r"method\.domains: 'news' is for the adapter 'paper', but there are only dates,"
    ):
        built(tiny_model_folder, folder, domains={"news": "paper"})
    with pytest.raises(AdaptError, match="holds no mixture"):
        built(tiny_model_folder, places)
    other = tmp_path / "other"
    make_model(384, seed=9).save_pretrained(other)
    load_tokenizer(ModelLocation(str(tiny_model_folder))).save_pretrained(other)
    with pytest.raises(AdaptError, match=r"was made over '.*', and the weights of '.*other' are others"):
        built(other, folder)


def test_recipes_name_the_mixture_of_a_stage():
    method = MixtureOfLora(from_mixture="gates", adapters={"places": "three"})
    assert list(method.references()) == [
        (("adapters", "places"), "three", "adapter"),
        (("from_mixture",), "gates", "mixture"),
    ]
