"""A collapsed mixture: exact where the gates are constant, measured where they are not."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.errors import AdaptError
from adapt.export.measures import Text, Window
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base
from adapt.mixture.collapse import Way, collapse, mean_gates, text_batches
from adapt.mixture.mixture import layers_of, routers_of
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.token import Token
from tests.conftest import ENGLISH, UKRAINIAN
from tests.mixture.domain_world import ids_of, logits

RANKS = {"dates": (3, ["q_proj", "down_proj"]), "places": (5, "all-linear"), "sums": (2, ["gate_proj", "q_proj"])}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_model_folder):
    """Three adapters of different ranks and targets that do something."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, (rank, targets)) in enumerate(RANKS.items()):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_folder), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder / name)
    return {name: folder / name for name in RANKS}


def mixture(base, adapters, router):
    location = ModelLocation(str(base))
    return mixture_of(load_model(location, torch.float32).eval(), adapters, router, base=Base.of(location))


@pytest.fixture
def text(tiny_model_folder):
    tokenizer = load_tokenizer(ModelLocation(str(tiny_model_folder)))
    rows = [tokenizer(line)["input_ids"] for line in (ENGLISH[0], UKRAINIAN[1], ENGLISH[3])]
    windows = tuple(Window(ids, [0, *[1] * (len(ids) - 1)]) for ids in rows)
    return Text(windows, sum(len(tokenizer.decode(ids[1:]).encode()) for ids in rows))


def test_constant_gates_are_merged_exactly(tmp_path, tiny_model_folder, adapters, text):
    model = mixture(tiny_model_folder, adapters, Dense())  # all alike at the start
    found = collapse(model, tiny_model_folder, text, tmp_path / "out", Way())
    assert all(sum(row.values()) == pytest.approx(1) for row in found["gates"].values())
    assert found["measured"]["collapsed"]["kl"] < 1e-8
    assert found["measured"]["base"]["kl"] > 1e-3
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(dense, ids_of()), logits(model, ids_of()), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.fixture
def sharp(tiny_model_folder, adapters):
    """A mixture whose gates depend on the token."""
    torch.manual_seed(1)
    model = mixture(tiny_model_folder, adapters, Token(k=2, spread=1.0))
    for router in routers_of(model).values():
        router.weight.data.mul_(0.5)
    return model


def test_the_mean_is_that_of_the_gates(sharp, text):
    name, layer = next(iter(layers_of(sharp).items()))
    seen = []
    layer.router.register_forward_hook(lambda module, inputs, gates: seen.append(gates.dense(3).flatten(0, 1)))
    means = mean_gates(sharp, text_batches(text, torch.device("cpu")))
    assert torch.allclose(torch.tensor(list(means[name].values())), torch.cat(seen).mean(0), atol=1e-6)
    assert set(means) == set(layers_of(sharp))


def test_what_it_costs_is_measured(tmp_path, tiny_model_folder, sharp, text):
    ways = {"average": Way(), "high": Way("svd", rank=10), "low": Way("svd", rank=2), "ties": Way("ties", density=0.5)}
    found = {name: collapse(sharp, tiny_model_folder, text, tmp_path / name, way) for name, way in ways.items()}
    kl = {name: entry["measured"]["collapsed"]["kl"] for name, entry in found.items()}
    assert all(value > 1e-4 for value in kl.values())
    assert abs(kl["high"] - kl["average"]) < 1e-5  # ranks 3 + 5 + 2 are all there
    assert found["high"]["lost"] < 1e-6 < found["low"]["lost"] < 0.9
    assert all(entry["measured"]["collapsed"]["bits_per_byte"] > 0 for entry in found.values())
    from peft import PeftModel

    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_folder), tmp_path / "low/adapter")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "low")
    assert torch.allclose(logits(live.eval(), ids_of()), logits(dense, ids_of()), atol=1e-5)


def test_ties_of_one_whole_adapter_is_that_adapter(tmp_path, tiny_model_folder, adapters, text):
    model = mixture(tiny_model_folder, {"places": adapters["places"]}, Dense())
    found = collapse(model, tiny_model_folder, text, tmp_path / "out", Way("ties", density=1.0))
    assert found["measured"]["collapsed"]["kl"] < 1e-8


def test_nothing_is_overwritten(tmp_path, tiny_model_folder, sharp, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(AdaptError, match=r"'.*out' is not empty; give a new folder"):
        collapse(sharp, tiny_model_folder, text, tmp_path / "out", Way())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]
