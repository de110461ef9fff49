"""Every gate: causal, right with padding, packing and a cache; one adapter alone where a gate is one-hot."""

from __future__ import annotations

import pytest
import torch

from adapt.checkpoints import ModelLocation, load_model
from adapt.mixture.mixture import mixture_in
from adapt.mixture.routers import ROUTERS
from adapt.mixture.routers.arrow import Arrow
from adapt.mixture.routers.dense import Dense
from adapt.mixture.routers.enforced import Enforced
from adapt.mixture.routers.mlp import Mlp
from adapt.mixture.routers.nearest_key import NearestKey
from adapt.mixture.routers.sequence import Sequence
from adapt.mixture.routers.token import Token
from tests.mixture.shop import logits, mixed, some_ids

CHOICES = {
    "token 1": (Token(k=1), "projection"),
    "token 2": (Token(k=2), "projection"),
    "token per layer": (Token(k=2), "layer"),
    "dense for the model": (Dense(temperature=0.5), "model"),
    "sequence": (Sequence(), "projection"),
    "sequence of two tokens": (Sequence(k=2, span=2), "layer"),
    "enforced by a token": (Enforced(default="base", tokens={"a": "dates", "e": "places"}), "projection"),
    "arrow": (Arrow(k=2), "projection"),
    "nearest key": (NearestKey(k=2), "projection"),
    "network": (Mlp(), "layer"),
    "network of two tokens": (Mlp(span=2, temperature=0.5), "projection"),
    "learned key": (NearestKey(k=1, keys="learned"), "layer"),
}


@pytest.fixture(scope="module", params=CHOICES, ids=str)
def mixture(request, tiny_model_folder, adapters):
    router, gate = CHOICES[request.param]
    return mixed(tiny_model_folder, adapters, router, gate=gate)


def close(left, right):
    torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def test_every_router_is_tried():
    assert {type(router) for router, _ in CHOICES.values()} == set(ROUTERS)


def test_later_tokens_change_nothing(mixture):
    ids = some_ids()
    changed = ids.clone()
    changed[:, 7:] = some_ids(seed=6)[:, 7:]
    before, after = logits(mixture, ids), logits(mixture, changed)
    close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_other_rows_change_nothing(mixture, side):
    ids = some_ids(rows=2)
    alone = logits(mixture, ids[1:, :8])
    mask = torch.ones_like(ids)
    row = torch.full((12,), 1)
    place = slice(4, 12) if side == "left" else slice(0, 8)
    row[place], mask[1] = ids[1, :8], 0
    mask[1, place] = 1
    batch = torch.stack([ids[0], row])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    together = logits(mixture, batch, attention_mask=mask, position_ids=positions)
    close(together[1, place], alone[0])
    if side == "right":
        close(logits(mixture, batch, attention_mask=mask)[1, place], alone[0])


def test_packed_documents_are_as_if_alone(mixture):
    ids = some_ids(rows=1, length=15)
    packed = logits(mixture, ids, position_ids=torch.tensor([[*range(6), *range(9)]]))
    close(packed[:, :6], logits(mixture, ids[:, :6]))
    close(packed[:, 6:], logits(mixture, ids[:, 6:]))


def test_generation_with_a_cache_is_that_without(mixture):
    ids, mask = some_ids(), torch.ones(2, 12, dtype=torch.long)
    ids[1, :4], mask[1, :4] = 1, 0
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    with torch.no_grad():
        cached = mixture.generate(input_ids=ids, attention_mask=mask, use_cache=True, **settings)
        uncached = mixture.generate(input_ids=ids, attention_mask=mask, use_cache=False, **settings)
        beams = mixture.generate(input_ids=ids, attention_mask=mask, use_cache=True, num_beams=3, **settings)
        beams_uncached = mixture.generate(input_ids=ids, attention_mask=mask, use_cache=False, num_beams=3, **settings)
    assert cached.tolist() == uncached.tolist()
    assert beams.tolist() == beams_uncached.tolist()


def test_a_text_in_two_passes_over_a_cache_is_the_text_in_one(mixture):
    ids = some_ids(length=16)
    with torch.no_grad():
        first = mixture(input_ids=ids[:, :5], use_cache=True)
        rest = mixture(input_ids=ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    close(torch.cat([first.logits, rest.logits], 1), logits(mixture, ids))


@pytest.mark.parametrize("name", ["dates", "numbers", "places"])
def test_a_one_hot_gate_is_that_adapter_alone(tiny_model_folder, adapters, name):
    from peft import PeftModel

    model = mixed(tiny_model_folder, adapters, Enforced())
    alone = PeftModel.from_pretrained(load_model(ModelLocation(str(tiny_model_folder))), adapters[name]).eval()
    with mixture_in(model).routing.naming(name):
        close(logits(model, some_ids()), logits(alone, some_ids()))


def test_domains_may_differ_in_a_batch_and_in_a_row(tiny_model_folder, adapters):
    model = mixed(tiny_model_folder, adapters, Enforced(default="base"))
    ids, routing = some_ids(), mixture_in(model).routing
    with routing.naming(["places", "dates"]):
        rows = logits(model, ids)
    with routing.naming("places"):
        close(rows[:1], logits(model, ids[:1]))
    domains = torch.tensor([[0] * 5 + [2] * 7])
    packed = logits(model, ids[:1], position_ids=torch.tensor([[*range(5), *range(7)]]), domains=domains)
    with routing.naming("places"):
        close(packed[:, 5:], logits(model, ids[:1, 5:]))
    base = load_model(ModelLocation(str(tiny_model_folder)))
    close(logits(model, ids), logits(base, ids))
