"""The sampling loss in a run: its formula, the same with activations computed again and with accumulation, resume."""

from __future__ import annotations

import pytest
import torch

from adapt.methods.domain_adapter import DomainAdapter
from adapt.mixture.bottleneck import parallel_layers
from tests.mixture.domain_world import ids_of, logits, stir
from tests.training import workshop

METHOD = DomainAdapter(width=4, layers=(0, 1), keep=3.0)


class Sources(workshop.Rows):
    """Every other row is general text."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "source": "general" if index % 2 else "domain"}


def made(base, folder, **changes):
    run = workshop.make_run(base, folder, METHOD, **changes)
    run.stream = Sources(run.tokenizer)
    run.collate = workshop.collate
    stir(run.model)
    return run


def gradients(base, folder, **changes):
    """The gradients of the first update, before they are clipped."""
    run, found = made(base, folder, steps=1, **changes), {}

    def keep(trainer, model):
        found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return original(trainer, model)

    from adapt.training.resumable import Resumable

    original = Resumable._clip_grad_norm
    Resumable._clip_grad_norm = keep
    try:
        run.execute()
    finally:
        Resumable._clip_grad_norm = original
    return run, found


def test_it_is_its_formula(tiny_model_folder, tmp_path):
    _, found = gradients(tiny_model_folder, tmp_path / "run", batch_size=4)
    run = made(tiny_model_folder, tmp_path / "own")
    batch = workshop.collate([run.stream[index] for index in range(4)])
    general = torch.tensor([False, True, False, True])[:, None]
    labels, outputs = batch["labels"], []
    for layer in parallel_layers(run.model).values():
        layer.domains.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    seen = run.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    next_tokens = torch.nn.functional.cross_entropy(
        seen[:, :-1].flatten(0, 1), labels.masked_fill(general, -100)[:, 1:].flatten(), reduction="sum"
    )
    kept = general & (labels != -100)
    sampling = sum((output.square().mean(-1) * kept).sum() for output in outputs)
    ((next_tokens + 3.0 * sampling) / (labels[:, 1:] != -100).sum()).backward()
    for name, parameter in run.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, found[name], atol=1e-6), name


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"batch_size": 1, "accumulation": 4}], ids=str)
def test_neither_checkpointing_nor_accumulation_changes_it(tiny_model_folder, tmp_path, changes):
    run, found = gradients(tiny_model_folder, tmp_path / "plain", batch_size=4)
    other, again = gradients(tiny_model_folder, tmp_path / "other", **({"batch_size": 4} | changes))
    assert found.keys() == again.keys()
    assert all(torch.allclose(found[name], again[name], atol=1e-6) for name in found)
    first, second = (each.companions[0].numbers() for each in (run, other))
    assert first["tokens"] == second["tokens"]
    assert first["mean"] == pytest.approx(second["mean"], rel=1e-4)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tiny_model_folder, tmp_path):
    straight = made(tiny_model_folder, tmp_path / "straight")
    numbers = straight.execute()
    stopped = made(tiny_model_folder, tmp_path / "stopped")
    stopped.companions[0].on_step_end = _stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        stopped.execute()
    again = made(tiny_model_folder, tmp_path / "stopped")
    found = again.execute()
    assert workshop.equal(workshop.weights(straight), workshop.weights(again))
    assert found["sampling"] == numbers["sampling"]


def _stop_after(step):
    def stop(args, state, control, **others):
        if state.global_step > step:
            raise KeyboardInterrupt

    return stop


def test_evaluation_marks_nothing(tiny_model_folder, tmp_path):
    run = made(tiny_model_folder, tmp_path / "run")
    run.execute()
    run.model.eval()
    logits(run.model, ids_of())
    assert all(layer.added is None for layer in parallel_layers(run.model).values())
