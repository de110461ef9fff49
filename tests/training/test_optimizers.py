"""Optimisers by name: each trains and resumes bit for bit or is refused in one line, and is its formula."""

from __future__ import annotations

import shutil

import pytest
import torch
from pydantic import TypeAdapter

from adapt.errors import AdaptError
from adapt.methods.full import Full
from adapt.training.optimizers import AnyOptimizer, Optimizer
from adapt.training.precision import check_offloading
from adapt.training.steps.apollo import ApolloAdamW
from adapt.training.steps.galore import GaloreAdamW
from adapt.training.steps.offloaded import OffloadedAdamW
from tests.training.workshop import equal, make_run, weights

READ = TypeAdapter(AnyOptimizer).validate_python
KINDS = [
    "offloaded_adamw",
    "lion",
    "lion_8bit",
    "adafactor",
    {"kind": "galore_adamw", "rank": 4, "every": 3},
    {"kind": "apollo_adamw", "rank": 4, "every": 3},
]


@pytest.mark.parametrize("settings", KINDS, ids=[str(kind) for kind in KINDS])
def test_it_trains_and_resumes_bit_for_bit(settings, tmp_path, tiny_model_folder):
    changes = {"optimizer": READ(settings), "steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    run = make_run(tiny_model_folder, tmp_path / "a", Full(), **changes)
    run.execute()
    losses = [event["loss"] for event in run.log.read("train")]
    assert losses[-1] < losses[0]
    shutil.copytree(tmp_path / "a" / "checkpoints" / "checkpoint-2", tmp_path / "b" / "checkpoints" / "checkpoint-2")
    again = make_run(tiny_model_folder, tmp_path / "b", Full(), **changes)
    again.execute()
    assert equal(weights(run), weights(again))


REFUSED = [
    ("paged_adamw_8bit", "optimizer 'paged_adamw_8bit' needs a CUDA GPU; use 'adamw_8bit' on a CPU"),
    ("paged_adamw_32bit", "optimizer 'paged_adamw_32bit' needs a CUDA GPU; use 'adamw' on a CPU"),
    ("paged_lion_8bit", "optimizer 'paged_lion_8bit' needs a CUDA GPU; use 'lion_8bit' on a CPU"),
]


@pytest.mark.parametrize(("kind", "message"), REFUSED)
def test_pages_are_refused_on_a_cpu(kind, message):
    with pytest.raises(AdaptError) as caught:
        READ(kind).check("cpu")
    assert str(caught.value) == message
    READ(kind).check("cuda")


def test_offloading_activations_is_refused_without_a_gpu():
    check_offloading(False, "cpu")
    check_offloading(True, "cuda")
    with pytest.raises(AdaptError, match=r"^activation_offloading .* no GPU here; leave it out, or set gradient_check"):
        check_offloading(True, "cpu")


def test_settings_without_a_kind_are_those_of_adamw():
    assert READ({"beta2": 0.99}) == Optimizer(beta2=0.99)
    assert READ("adamw") == Optimizer()


def stepped(optimizer_of, gradients, start):
    parameter = torch.nn.Parameter(start.clone())
    optimizer = optimizer_of([{"params": [parameter], "weight_decay": 0.1, "lr": 1e-2}])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach(), optimizer


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(12, 20, generator=generator) for _ in range(4)], torch.randn(12, 20, generator=generator)


def test_offloaded_adamw_is_adamw_bit_for_bit(problem):
    arguments = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
    ours, optimizer = stepped(lambda groups: OffloadedAdamW(groups, **arguments), *problem)
    theirs, _ = stepped(lambda groups: torch.optim.AdamW(groups, fused=True, **arguments), *problem)
    assert torch.equal(ours, theirs)
    copy = OffloadedAdamW([{"params": [torch.nn.Parameter(ours.clone())]}], **arguments)
    copy.load_state_dict(optimizer.state_dict())
    (state,), (kept,) = copy.state.values(), optimizer.state.values()
    assert all(torch.equal(state[name], kept[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def adam(gradients, betas=(0.9, 0.95), eps=1e-8):
    """Adam's direction after these gradients, written out from Kingma and Ba's algorithm 1."""
    first = second = torch.zeros_like(gradients[0])
    for gradient in gradients:
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
    count = len(gradients)
    return first / (1 - betas[0] ** count) / ((second / (1 - betas[1] ** count)).sqrt() + eps)


def galore(groups, rank=3, every=2, whole=frozenset()):
    return GaloreAdamW(groups, 1e-2, whole, rank, every, 0.25, (0.9, 0.95), 1e-8)


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_galore_is_adam_in_the_main_directions(problem, turned):
    gradients, start = problem
    gradients = [gradient.T.contiguous() for gradient in gradients] if turned else gradients
    found, optimizer = stepped(galore, gradients[:2], start.T.contiguous() if turned else start)
    wide = [gradient.T for gradient in gradients] if turned else gradients
    left = torch.linalg.svd(wide[0])[0][:, :3]
    expected = start.clone()
    for count in (1, 2):
        moved = 0.25 * left @ adam([left.T @ gradient for gradient in wide[:count]])
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * moved
    torch.testing.assert_close(found.T if turned else found, expected)
    (state,) = optimizer.state.values()
    assert state["exp_avg"].shape == (3, 20)


def test_moments_are_whole_where_a_projection_saves_nothing(problem):
    gradients, start = problem
    small, optimizer = stepped(lambda groups: galore(groups, rank=12), gradients[:1], start)
    torch.testing.assert_close(small, start * (1 - 1e-3) - 1e-2 * adam(gradients[:1]))
    assert next(iter(optimizer.state.values())).keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_apollo_scales_the_gradient_to_adams_length_in_a_random_projection(problem, scales):
    gradients, start = problem
    found, optimizer = stepped(
        lambda groups: ApolloAdamW(groups, 1e-2, frozenset(), 3, 5, 2.0, (0.9, 0.95), 1e-8, scales=scales),
        gradients[:1],
        start,
    )
    (state,) = optimizer.state.values()
    small = state["projection"] @ gradients[0]
    over = 0 if scales == "channel" else (0, 1)
    lengths = adam([small]).norm(dim=over) / small.norm(dim=over)
    expected = start * (1 - 1e-3) - 1e-2 * 2 * gradients[0] * lengths
    torch.testing.assert_close(found, expected)


def test_apollo_draws_from_a_seed_of_its_own(problem):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    settings = (1e-2, frozenset(), 3, 2, 1.0, (0.9, 0.95), 1e-8)
    make = lambda groups: ApolloAdamW(groups, *settings, scales="channel")  # noqa: E731
    one, _ = stepped(make, *problem)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, stepped(make, *problem)[0])


def test_lion_moves_every_weight_by_the_rate(problem):
    gradients, start = problem
    settings = READ({"kind": "lion", "weight_decay": 0.1})
    found, _ = stepped(lambda groups: settings.make(groups, (), 1e-2), gradients[:2], start)
    first = (1 - 0.99) * gradients[0]
    expected = start * (1 - 1e-3) - 1e-2 * gradients[0].sign()
    expected = expected * (1 - 1e-3) - 1e-2 * (0.9 * first + 0.1 * gradients[1]).sign()
    torch.testing.assert_close(found, expected)
