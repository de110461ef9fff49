"""Training a mixture through the stage: what moves and what does not, its losses, its numbers, its folder."""

from __future__ import annotations

import io
import json

import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console
from safetensors.torch import load_file

import adapt
from adapt.checkpoints import ModelLocation, load_model
from adapt.data.sources import AnySource
from adapt.display import Display
from adapt.log import Log
from adapt.mixture.mixture import mixture_in
from adapt.stages.base import StageContext
from adapt.stages.train import Train
from tests.conftest import ENGLISH, UKRAINIAN
from tests.mixture.shop import logits, some_ids

SOURCE = TypeAdapter(AnySource)
SMALL = {
    "kind": "train",
    "model": "base",
    "mixture": {"dates": 0.5, "numbers": 0.5},
    "schedule": {"kind": "linear", "peak": "1e-2"},
    "tokens": "2k",
    "sequence_length": 64,
    "batch_size": 4,
    "evaluations": 2,
    "report_to": [],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("text"), {}
    for name, texts in {"dates": UKRAINIAN, "numbers": ENGLISH}.items():
        rows = [json.dumps({"text": f"{text} {index}."}) for index, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        found[name] = SOURCE.validate_python({"files": str(folder / f"{name}.jsonl"), "held_out": 0.2})
    return found


@pytest.fixture
def train(tmp_path, tiny_model_folder, sources, adapters):
    def run(method, place="run", **changes):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        here = StageContext(
            recipe="test",
            stage="gates",
            seed=5,
            folder=folder,
            cache=tmp_path / "cache",
            models={"base": ModelLocation(str(tiny_model_folder))},
            sources=sources,
            display=Display(Console(file=io.StringIO(), width=200)),
            log=Log(folder / "log.jsonl"),
        )
        named = {name: str(adapters[name]) for name in ("dates", "numbers")}
        method = {"kind": "mixture_of_lora", "adapters": named} | method
        stage = Train.model_validate(SMALL | {"method": method} | changes)
        assert list(stage.complaints(sources)) == []
        return folder, stage.run(here)

    return run


def test_gates_learn_and_nothing_else_moves(train, tiny_model_folder, adapters):
    folder, metrics = train({"router": {"kind": "token", "k": 1}, "gate_rate": 3})
    assert metrics["changed_tensors_ok"] is True
    assert metrics["changed_tensors"]["changed"] == 2 * 5  # a gate for each adapted projection
    assert metrics["reload_difference"] < 1e-4
    assert metrics["collapse"]["kl"] > 0
    assert {path.name for path in folder.iterdir()} == {"mixture", "model", "log.jsonl"}
    for name in ("dates", "numbers"):
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            written = folder / "mixture" / "adapters" / name / file
            assert written.read_bytes() == (adapters[name] / file).read_bytes()
    numbers = metrics["mixture"]
    assert numbers["names"] == ["dates", "numbers"] == sorted(numbers["domains"])
    assert len(numbers["layers"]) == len(numbers["usage"]) == 10
    lines = Log(folder / "log.jsonl").read("mixture")
    assert [line["step"] for line in lines] == list(range(1, metrics["steps"] + 1))
    assert len(lines[0]["usage"]) == len(lines[0]["entropy"]) == 10
    model, tokenizer = adapt.load_mixture(folder / "mixture")
    assert tokenizer.decode(model.generate(some_ids(1), max_new_tokens=3)[0])
    assert load_model(ModelLocation(str(folder / "model"))).generate(some_ids(1), max_new_tokens=3).shape == (1, 15)


def test_gates_that_are_told_the_right_adapter_choose_it(train):
    method = {"router": "sequence", "train": "supervised", "supervision": 20, "gate_rate": 10}
    folder, metrics = train(method, tokens="6k", evaluations=1)
    numbers = metrics["mixture"]
    right = [
        row[numbers["domains"].index(name)][place]
        for row in numbers["first"]
        for place, name in enumerate(numbers["names"])
    ]
    assert sum(right) / len(right) > 0.95
    losses = [line["supervision"] for line in Log(folder / "log.jsonl").read("mixture")]
    assert losses[-1] < 0.3 * losses[0]


def test_new_adapters_start_at_nothing_and_train_with_their_gates(train, tiny_model_folder):
    method = {"adapters": {}, "new": 3, "r": 4, "targets": ["q_proj", "up_proj"], "train": "joint", "gate": "layer"}
    folder, metrics = train(method, evaluations=1, gradient_checkpointing=True)
    assert metrics["target"]["dates"]["end"] < metrics["target"]["dates"]["start"]
    assert metrics["mixture"]["layers"] == ["model.layers.0", "model.layers.1"]
    model, _ = adapt.load_mixture(folder / "mixture")
    from peft import PeftModel

    base = load_model(ModelLocation(str(tiny_model_folder)))
    expected = base(input_ids=some_ids()).logits
    assert not torch.allclose(logits(model, some_ids()), expected)
    alone = PeftModel.from_pretrained(base, folder / "mixture" / "adapters" / "new_2")
    assert not torch.allclose(logits(alone, some_ids()), expected)


SLOW = pytest.mark.slow
LOOKING_BACK = pytest.param("sequence", marks=SLOW)
LEARNED = pytest.param({"kind": "nearest_key", "keys": "learned"}, marks=SLOW)


@pytest.mark.parametrize("router", ["dense", LOOKING_BACK, LEARNED], ids=str)
def test_checkpointing_counts_every_loss_once(train, router):
    method = {"router": router, "train": "gates", "balance": 0.0, "z_loss": 0.1, "entropy": 0.1}
    found = {}
    for name, extra in {"plain": {}, "again": {"gradient_checkpointing": True}}.items():
        folder, _ = train(method, place=name, tokens=500, evaluations=1, **extra)
        found[name] = load_file(folder / "mixture" / "gates.safetensors"), Log(folder / "log.jsonl").read("mixture")
    for name, tensor in found["plain"][0].items():
        torch.testing.assert_close(found["again"][0][name], tensor, atol=1e-6, rtol=1e-5)
    for one, two in zip(found["plain"][1], found["again"][1], strict=True):
        assert one["usage"].keys() == two["usage"].keys()
        torch.testing.assert_close(torch.tensor(list(two["usage"].values())), torch.tensor(list(one["usage"].values())))


def test_a_base_in_four_bits(train, tiny_model_folder):
    folder, metrics = train({"over": "nf4", "router": {"kind": "nearest_key"}, "train": "joint"}, tokens=600)
    assert metrics["reload_difference"] < 0.05
    model, _ = adapt.load_mixture(folder / "mixture")
    assert mixture_in(model).quantised == "nf4"
    assert model.generate(some_ids(1), max_new_tokens=3).shape == (1, 15)


def test_enforced_domains_train_each_adapter_on_its_own(train, adapters):
    method = {"adapters": {"dates": str(adapters["dates"])}, "router": "enforced", "train": "joint"}
    folder, metrics = train(method, mixture={"dates": 1.0}, tokens=600)
    assert metrics["mixture"]["usage"][0] == [[1.0]]
    assert metrics["collapse"]["kl"] < 1e-5
    before = load_file(adapters["dates"] / "adapter_model.safetensors")
    after = load_file(folder / "mixture" / "adapters" / "dates" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before)
