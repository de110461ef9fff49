"""What the planner counts: formats and moments by hand, what trains against models that are really built."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.methods import METHODS
from adapt.methods.bitfit import Bitfit
from adapt.methods.outline import bytes_of, linear_layers, nf4_bytes
from adapt.methods.qlora import Qlora
from adapt.planning.configs import config_of
from adapt.planning.sketch import Vocabulary
from adapt.planning.train import plan_train
from adapt.planning.writing import proof, trained
from adapt.stages.train import Train
from adapt.training.optimizers import OPTIMIZERS
from adapt.training.precision import Precision
from adapt.training.rules import learning, trainable_numbers
from tests.training.workshop import make_run

METHOD = {
    "freeze": {"kind": "freeze", "train": ["last 1"]},
    "lisa": {"kind": "lisa", "layers": 1},
    "half-nf4": {"kind": "half", "frozen": "nf4"},
    "lora-fa": {"kind": "lora", "lora_fa": True},
    "dora": {"kind": "lora", "dora": True, "targets": ["q_proj", "down_proj"]},
    "lora-whole": {"kind": "lora", "train_embeddings": "whole"},
    "loram": {"kind": "loram", "prune": {"criterion": "magnitude"}},
    "pruned": {"kind": "pruned", "prune": {"criterion": "magnitude"}},
    "rows": {"kind": "rows", "train_embeddings": "whole"},
}
KINDS = [method.model_fields["kind"].default for method in METHODS]
CASES = {kind: {"kind": kind} for kind in KINDS if kind != "bitfit" and "mixture" not in kind} | METHOD
CPU = Precision(torch.device("cpu"), False)


def stage_of(method, **settings):
    settings = {"tokens": 1000, "sequence_length": 32, "batch_size": 2} | settings
    return Train(kind="train", model="base", mixture={"text": 1}, method=method, hold_rows="special", **settings)


def planned(folder, method, bf16=False, **settings):
    location = ModelLocation(str(folder))
    config = config_of(location)
    return plan_train(stage_of(method, **settings), config, Vocabulary(config.vocab_size), location, "cpu", bf16)


@pytest.mark.parametrize("name", CASES)
def test_what_trains_is_what_trains_in_a_real_model(name, tiny_model_folder):
    stage, location = stage_of(CASES[name]), ModelLocation(str(tiny_model_folder))
    model = stage.method.build(location, CPU, lambda: iter(()))
    rows = stage.method.rows(model, "special", location, load_tokenizer(location))
    plan = planned(tiny_model_folder, CASES[name])
    assert plan.trainable == trainable_numbers(model, rows)
    real = {tuple(p.shape): p.dtype for p in model.parameters() if p.requires_grad}
    assert {tuple(p.shape): p.dtype for p in plan.sketch.training} == real


def test_a_method_that_would_train_nothing_says_so_before_anything_is_loaded(tiny_model_folder):
    from adapt.errors import AdaptError

    with pytest.raises(AdaptError, match="no biases to train"):
        planned(tiny_model_folder, Bitfit())


def test_weights_in_four_bits_are_the_bytes_of_a_loaded_model(tiny_model_folder):
    location = ModelLocation(str(tiny_model_folder))
    model = Qlora().load(location, CPU)
    found = 0
    for parameter in model.parameters():
        found += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            found += sum(tensor.nbytes for tensor in tensors)
    plan = planned(tiny_model_folder, {"kind": "qlora"})
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert plan.sketch.parts["weights"] == found + buffers
    outlined = [plan.sketch.model.get_base_model().get_submodule(name) for name in linear_layers(model)]
    assert all(getattr(module.get_base_layer().weight, "four_bits", False) for module in outlined)


def test_four_bits_by_hand():
    """4096 numbers: 2048 bytes, 64 scales of 1 byte, one of 4 bytes, 16 and 256 values and a mean in float32."""
    assert nf4_bytes(4096) == 2048 + 64 + 4 + 64 + 1024 + 4
    weight = torch.nn.Parameter(torch.empty(64, 64, device="meta"))
    assert bytes_of(weight) == 4 * 4096
    weight.four_bits = True
    assert bytes_of(weight) == nf4_bytes(4096)


def test_parts_of_full_training_by_hand(tiny_model_folder):
    config = LlamaConfig.from_pretrained(tiny_model_folder)
    plan = planned(tiny_model_folder, {"kind": "full"})
    count = sum(parameter.numel() for parameter in plan.sketch.model.parameters())
    width, wide, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    keys = config.num_key_value_heads * config.head_dim
    layer = 2 * width * (width + keys) + 3 * width * wide + 2 * width
    assert count == config.num_hidden_layers * layer + width + 2 * vocabulary * width
    memory = plan.memory
    assert memory.parts["optimiser"] == 2 * 4 * count
    assert memory.phases["update"] == sum(plan.sketch.parts.values()) + 2 * 4 * count + 4 * count
    assert sum(memory.parts.values()) == memory.peak == max(memory.phases.values())


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(tiny_model_folder):
    def phase(**settings):
        plan = planned(tiny_model_folder, {"kind": "lora"}, **settings)
        return plan.memory.phases["forward"] - sum(plan.sketch.parts.values()) - plan.memory.parts["optimiser"]

    one, two = phase(batch_size=4), phase(batch_size=8)
    assert two == pytest.approx(2 * one, rel=0.05)
    assert phase(batch_size=8, gradient_checkpointing=True) < 0.6 * two


@pytest.mark.parametrize(
    "optimizer", [kind for rule in OPTIMIZERS for kind in rule.model_fields["kind"].annotation.__args__]
)
def test_moments_are_those_that_a_real_optimiser_keeps(optimizer, tiny_model_folder, tmp_path):
    if optimizer.startswith("paged"):
        pytest.skip("needs CUDA")
    stage = stage_of(
        {"kind": "full"},
        optimizer={"kind": optimizer} | ({"rank": 8} if "_adamw" in optimizer and "off" not in optimizer else {}),
    )
    run = make_run(tiny_model_folder, tmp_path, stage.method, steps=1, optimizer=stage.optimizer)
    made = stage.optimizer.build(run.model, run.rows, 1e-4)
    for parameter in learning(run.model).values():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    found = 0
    for parameter, entries in made.state.items():
        sizes = [value.nbytes for name, value in entries.items() if torch.is_tensor(value) and value.dim()]
        embedding = any(parameter is other for other in run.rows.all_parameters)
        planned_bytes = stage.optimizer.state_bytes(tuple(parameter.shape), embedding)
        assert planned_bytes == pytest.approx(sum(sizes), abs=2 * 1024 + 16), (optimizer, tuple(parameter.shape))
        found += sum(sizes)
    assert found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_writing_holds_the_model_once_by_hand(dtype, tiny_model_folder):
    """Untied: two tables. Of a model in bf16 the head is widened to float32 in a pass; a float32 model is not."""
    config = config_of(ModelLocation(str(tiny_model_folder)))
    config.dtype = getattr(torch, dtype)
    height, width, positions = config.vocab_size + 10, config.hidden_size, 7
    more = 2 * 10 * width
    count = sum(p.numel() for p in planned(tiny_model_folder, {"kind": "full"}).sketch.model.parameters()) + more
    logits, table = 4 * positions * height, 4 * height * width
    beside = 5 * logits if dtype == "float32" else max(table + 3 * logits, 5 * logits)
    size = {"float32": 4, "bfloat16": 2}[dtype] * count
    assert proof(config, Vocabulary(height), positions=positions) == size + beside
    assert proof(config, Vocabulary(height), "float32", positions) == 4 * count + 5 * logits


def test_on_a_cpu_the_trained_model_is_there_while_it_is_written(tiny_model_folder):
    plan = planned(tiny_model_folder, {"kind": "qlora"}, sequence_length=200)
    config = plan.sketch.model.config
    held = sum(plan.sketch.parts.values()) + plan.memory.parts["optimiser"]
    assert trained(plan) == held + proof(config, Vocabulary(config.vocab_size), positions=512)
