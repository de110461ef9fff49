"""Stage 2 as a train stage: gates and task adapter learn, nothing else moves; the folder, the plain model, mistakes."""

from __future__ import annotations

import pytest
import torch

import adapt
from adapt.checkpoints import ModelLocation, load_model
from adapt.methods.domain_adapter import DomainAdapter as Stage1
from adapt.mixture.bases import Base
from adapt.mixture.bottleneck import parallel_layers
from adapt.mixture.domain_folder import read_domain_adapter, write_domain_adapter
from tests.mixture.domain_world import ids_of, logits, run, stage, stir


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model_folder):
    place, base = tmp_path_factory.mktemp("domain_adapters"), ModelLocation(str(tiny_model_folder))
    for seed, name in enumerate(("uk", "sums")):
        model = Stage1(width=4, layers=(0, 1)).attach(load_model(base))
        stir(model, seed)
        for parallel in parallel_layers(model).values():
            parallel.domains.up.data.mul_(0.1)
        units = {layer: parallel.domains for layer, parallel in parallel_layers(model).items()}
        write_domain_adapter(place / name, units, "domain", Base.of(base))
    return {name: str(place / name) for name in ("uk", "sums")}


def settings(folders, **changes):
    method = {"kind": "mixture_of_domain_adapters", "adapters": folders, "task": 4}
    return {"method": method | changes, "mixture": {"uk": 0.5, "sums": 0.5}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_folder, folders):
    folder = tmp_path_factory.mktemp("stage") / "run"
    changes = {"train": "supervised", "supervision": 3, "gate_rate": 4, "router": {"kind": "mlp", "dropout": 0}}
    return folder, run(folder, tiny_model_folder, **settings(folders, **changes))


def test_gates_find_their_domain_and_nothing_else_moves(trained, folders):
    folder, numbers = trained
    assert numbers["changed_tensors_ok"]
    table = numbers["mixture"]
    assert table["names"] == ["uk", "sums"]
    assert table["domains"] == ["uk", "sums"] or table["domains"] == ["sums", "uk"]
    for row in table["usage"]:
        for domain, usage in zip(table["domains"], row, strict=True):
            own = table["names"].index(domain)
            assert usage[own] > 0.6
            assert sum(usage) < 1  # the layer alone weighs something too
    for name, given in folders.items():  # the frozen adapters are bit for bit what they were
        before, after = read_domain_adapter(given), read_domain_adapter(folder / "mixture" / "adapters" / name)
        for layer, tensors in before.layers.items():
            assert all(torch.equal(tensor, after.layers[layer][key]) for key, tensor in tensors.items())
    for source in ("uk", "sums"):
        assert numbers["target"][source]["end"] < numbers["target"][source]["start"]


def test_the_folder_is_the_live_model_and_the_plain_one_is_measured(trained):
    folder, numbers = trained
    model, _ = adapt.load_mixture(folder / "mixture")
    dense = load_model(ModelLocation(str(folder / "model"))).eval()
    assert dense.config.intermediate_size == 128 + 4 + 4 + 4
    assert numbers["dense"] == {"form": "channels", "added": 12}
    assert 0 <= numbers["collapse"]["kl"] < 0.1
    assert numbers["reload_difference"] < 1e-2
    difference = (logits(model, ids_of()) - logits(dense, ids_of())).abs().max()
    assert difference > 1e-5  # gates are not their means


@pytest.mark.slow
def test_over_four_bits_with_frozen_gates(tmp_path, tiny_model_folder, folders):
    changes = {"router": {"kind": "enforced", "default": "base"}, "over": "nf4"}
    numbers = run(tmp_path / "run", tiny_model_folder, tokens="1k", **settings(folders, **changes))
    assert numbers["changed_tensors_ok"]
    model, _ = adapt.load_mixture(tmp_path / "run" / "mixture")
    with model.adapt_mixture.routing.naming("uk"):
        assert logits(model, ids_of()).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"adapters": {}}, "adapters", "a mixture needs adapters; name some"),
        ({"router": {"kind": "token", "k": 3}}, "router", "k is 3, but there are 2 adapters; set k to at most 2"),
        ({"router": "enforced", "task": None}, "router", "'enforced' has nothing that trains, and there is no task"),
        ({"domains": {"uk": "ru"}}, "domains", "'uk' is for the adapter 'ru', but there are only uk, sums"),
        ({"train_embeddings": "whole"}, "train_embeddings", "all adapters of a mixture have one vocabulary"),
    ],
    ids=str,
)
def test_mistakes_have_their_place(changes, key, message):
    found = stage(**settings({"uk": "uk", "sums": "sums/adapter"}, **changes)).complaints({})
    assert any(complaint.path == ("method", key) and message in complaint.message for complaint in found)


def test_stages_are_named_as_inputs():
    read = stage(**settings({"uk": "uk_stage", "sums": "sums_stage/adapter"})).reads()
    assert [(r.path, r.name) for r in read.models[1:]] == [
        (("method", "adapters", "uk"), "uk_stage"),
        (("method", "adapters", "sums"), "sums_stage"),
    ]
