"""The pieces of gates by themselves: losses, prototypes, keys, how often what is chosen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from adapt.mixture.gates import Gates
from adapt.mixture.gating.arrow import prototype
from adapt.mixture.gating.scored import Site, accounted, chosen
from adapt.mixture.losses import Losses, entropy, load_balance, supervised, with_loss, z_loss
from adapt.mixture.mixture import mixture_in, routers_of
from adapt.mixture.observing import collected, observe_batches
from adapt.mixture.routers.arrow import Arrow
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.nearest_key import NearestKey
from adapt.mixture.routers.sequence import Sequence
from adapt.mixture.routing import Routing
from adapt.mixture.stack import Factors
from adapt.mixture.starting import place_keys
from tests.mixture.shop import logits, mixed, some_ids


@given(some.integers(2, 6), some.integers(1, 3))
def test_balance_is_one_for_even_use_and_the_count_for_one_taker(count, k):
    k = min(k, count)
    tokens = torch.arange(count * 4).view(1, -1)
    even = torch.stack([(tokens + i) % count for i in range(k)], -1)
    assert load_balance(torch.full((1, count * 4, count), 1 / count), even, None).item() == pytest.approx(1)
    taken = torch.nn.functional.one_hot(torch.zeros(1, 8, dtype=torch.long), count).float()
    one = load_balance(taken.clamp(min=1e-9), torch.zeros(1, 8, 1, dtype=torch.long), None)
    assert one.item() == pytest.approx(count)


def test_padding_counts_in_no_loss():
    scores, domains = torch.randn(2, 6, 3), torch.randint(-1, 3, (2, 6))
    valid = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    other = torch.where(valid[..., None], scores, torch.randn(2, 6, 3) * 5)
    weighing = Losses(1, 1, 1, 1)
    one, two = (weighing(each, chosen(each, 2), valid, domains) for each in (scores, other))
    assert one.keys() == {"balance", "z_loss", "supervision", "entropy"}
    for name in one:
        torch.testing.assert_close(one[name], two[name])


def test_losses_are_their_formulas():
    scores = torch.randn(1, 5, 4)
    domains = torch.tensor([[0, 3, -1, 2, 1]])
    kept = domains[0] >= 0
    expected = torch.nn.functional.cross_entropy(scores[0, kept], domains[0, kept])
    torch.testing.assert_close(supervised(scores, domains, None), expected)
    torch.testing.assert_close(z_loss(scores, None), scores.exp().sum(-1).log().square().mean())
    expected = torch.distributions.Categorical(logits=scores).entropy().mean()
    torch.testing.assert_close(entropy(scores.softmax(-1), None), expected)
    closed = scores.masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
    assert supervised(closed, domains, None).isfinite()
    assert entropy(closed.softmax(-1), None).isfinite()


def test_a_loss_beside_the_weights_reaches_the_gradient_once():
    scores = torch.randn(1, 4, 3, requires_grad=True)
    routing = Routing(losses=Losses(z_loss=0.5, scale=0.25))
    gates = accounted("here", scores, chosen(scores, 2), routing)
    gates.weights.square().sum().backward()
    found, scores.grad = scores.grad.clone(), None
    (chosen(scores, 2).weights.square().sum() + 0.25 * 0.5 * z_loss(scores, None)).backward()
    torch.testing.assert_close(found, scores.grad)
    assert torch.equal(with_loss(gates.weights, scores.sum()), gates.weights)


def test_one_adapter_at_a_token_still_teaches_its_gate():
    scores = torch.randn(2, 3, 4, requires_grad=True)
    gates = chosen(scores, 1)
    torch.testing.assert_close(gates.weights.squeeze(-1), scores.softmax(-1).amax(-1))
    gates.weights.sum().backward()
    assert scores.grad.abs().sum() > 0
    dense = chosen(scores.detach(), None)
    assert dense.chosen is None
    torch.testing.assert_close(dense.weights.sum(-1), torch.ones(2, 3))


@given(some.integers(1, 5), some.floats(0.1, 10))
def test_a_prototype_is_the_first_right_singular_vector(rank, factor):
    generator = torch.Generator().manual_seed(rank)
    a, b = torch.randn(rank, 12, generator=generator), torch.randn(9, rank, generator=generator)
    expected = torch.linalg.svd(b @ a).Vh[0]
    for scaled in (Factors(a, b, 1.0), Factors(a * factor, b / factor, 2.0)):
        assert abs(float(prototype(scaled) @ expected)) == pytest.approx(1, abs=1e-4)
    assert not prototype(Factors(a, torch.zeros(9, rank), 1.0)).any()


@pytest.mark.parametrize("choice", [Dense(), Sequence()], ids=lambda choice: choice.kind)
def test_gates_start_even(choice):
    router = choice.build(Site("here", 8, ("a", "b", "c")))
    gates = router(torch.randn(2, 5, 8), Routing())
    torch.testing.assert_close(gates.dense(3), torch.full((2, 5, 3), 1 / 3))


def test_a_learned_key_begins_at_half_of_its_adapter(tiny_model_folder, adapters):
    from adapt.mixture.routers.enforced import Enforced

    ids = some_ids()
    learned = mixed(tiny_model_folder, adapters, NearestKey(keys="learned"))
    whole = mixed(tiny_model_folder, adapters, Enforced())
    layer = "model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        for router in routers_of(learned).values():
            router.keys.zero_()
        inputs, found = torch.randn(1, 3, 64), []
        for model in (learned, whole):
            routing, module = mixture_in(model).routing, model.get_submodule(layer)
            routing.domains = torch.tensor([[0, 1, 2]])
            found.append(module.train()(inputs) - module.base(inputs))
    torch.testing.assert_close(found[0], found[1] / 2)
    assert logits(learned.eval(), ids).isfinite().all()


def test_mean_keys_send_texts_to_their_own_adapter(tiny_model_folder, adapters):
    model = mixed(tiny_model_folder, adapters, NearestKey(k=1))
    texts = {place: torch.randint(20 + 90 * place, 100 + 90 * place, (4, 12)) for place in range(3)}
    batches = [{"input_ids": ids, "domains": torch.full_like(ids, place)} for place, ids in texts.items()]
    place_keys(model, batches)
    for place, ids in texts.items():
        found = observe_batches(model, mixture_in(model).routing, [{"input_ids": ids}])
        assert found["model.layers.0.self_attn.q_proj"].average.argmax() == place


def test_what_is_observed_is_what_the_gates_do(tiny_model_folder, adapters):
    model = mixed(tiny_model_folder, adapters, Arrow(k=2))
    routing, mask = mixture_in(model).routing, torch.ones(2, 12, dtype=torch.long)
    mask[1, 6:] = 0
    batch = {"input_ids": some_ids(), "attention_mask": mask}
    found = observe_batches(model, routing, [batch, batch])
    assert set(found) == set(routers_of(model))
    for observation in found.values():
        assert observation.tokens.item() == 2 * 18
        assert observation.usage.sum().item() == pytest.approx(2 * 18, rel=1e-5)
        assert 0 <= observation.entropy.item() / 36 <= math.log(3) + 1e-6
    logits(model, some_ids())
    assert collected(routing) == {}
    other = torch.where(mask.bool(), some_ids(), some_ids(seed=9))
    again = observe_batches(model, routing, [{"input_ids": other, "attention_mask": mask}])
    for path, observation in again.items():
        torch.testing.assert_close(observation.average, found[path].average)


def test_dense_and_sparse_gates_are_the_same_weights():
    scores = torch.randn(2, 4, 5)
    gates = chosen(scores, 2)
    assert isinstance(gates, Gates)
    assert (gates.dense(5) > 0).sum(-1).eq(2).all()
