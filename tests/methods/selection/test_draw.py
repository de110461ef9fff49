"""What a draw chooses: counts as published, shares, and that nothing but its words decides."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.methods.half import Half
from adapt.methods.selection.draw import choose, drawn, nearest
from adapt.methods.selection.units import Unit, parameters_of, shapes_of, unit_name, units_of

ATTENTION = {"q": (64, 64), "k": (16, 64), "v": (16, 64), "o": (64, 64)}
FEED_FORWARD = {"gate": (128, 64), "up": (128, 64), "down": (64, 128)}


def llama(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama's blocks and of its last norm."""
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (64,)}
    for layer in range(layers):
        start = f"model.layers.{layer}"
        shapes |= {f"{start}.self_attn.{name}_proj.weight": shape for name, shape in ATTENTION.items()}
        shapes |= {f"{start}.mlp.{name}_proj.weight": shape for name, shape in FEED_FORWARD.items()}
        shapes |= {f"{start}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
    return shapes


def counts(chosen: list[Unit], category: str, layers: int) -> list[int]:
    found = Counter(unit.layer for unit in chosen if unit.category == category)
    return [found[layer] for layer in range(layers)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_half_of_each_category_of_each_layer_as_published(layers, seed):
    chosen = drawn(units_of(llama(layers)), 0.5, "category", seed)
    assert counts(chosen, "attention", layers) == [2] * layers
    assert counts(chosen, "norm", layers) == [1] * layers
    forward = counts(chosen, "feed_forward", layers)
    assert set(forward) <= {1, 2}
    assert forward.count(1) == layers // 2  # two of three are frozen in one half of the layers
    assert all(unit.layer is not None for unit in chosen)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 1), st.sampled_from(["category", "parameters", "layer", "matrix"]))
def test_any_ratio_is_met_as_nearly_as_whole_units_allow(layers, ratio, granularity):
    units = units_of(llama(layers))
    chosen = drawn(units, ratio, granularity, 3)
    assert len({unit.name for unit in chosen}) == len(chosen)
    if granularity == "matrix":
        assert len(chosen) == nearest(ratio * 9 * layers)
    elif granularity == "layer":
        assert len(chosen) == 9 * nearest(ratio * layers)
    else:
        for category, height in (("attention", 4), ("feed_forward", 3), ("norm", 2)):
            found = counts(chosen, category, layers)
            slack = 0.5 if granularity == "category" else 1.0  # queries and keys are rounded apart
            assert abs(sum(found) - ratio * height * layers) <= slack + 1e-9
            assert max(found) - min(found) <= (1 if granularity == "category" else 2)


def test_ratio_one_is_everything():
    units = units_of(llama(3))
    for granularity in ("category", "parameters", "layer", "matrix"):
        chosen = parameters_of(drawn(units, 1.0, granularity, 0))
        assert chosen == llama(3).keys() - {"model.norm.weight"}


@pytest.mark.parametrize("seed", range(5))
def test_balanced_draws_hold_the_share_in_numbers_under_grouped_queries(seed):
    units = [unit for unit in units_of(llama(4)) if unit.category == "attention"]
    total = sum(unit.size for unit in units)
    balanced = sum(unit.size for unit in drawn(units, 0.5, "parameters", seed))
    assert balanced == total / 2


def test_a_draw_depends_on_its_words_and_on_nothing_else():
    units = units_of(llama(6))
    first = drawn(units, 0.5, "category", 0, 0, 0)
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state()
    assert drawn(units, 0.5, "category", 0, 0, 0) == first
    assert set(drawn(reversed(units), 0.5, "category", 0, 0, 0)) == set(first)
    assert torch.equal(before, torch.get_rng_state())
    for words in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert drawn(units, 0.5, "category", *words) != first
    assert choose("abcdefgh", 3, 0, "x") == {"b", "c", "e"}  # on every machine


def test_every_member_is_drawn_equally_often():
    found = Counter(name for seed in range(4000) for name in choose("abcd", 2, seed))
    assert all(abs(count - 2000) < 5 * 4000**0.5 / 2 for count in found.values())


def test_after_r_rounds_a_share_of_a_half_to_the_r_never_trained():
    units = [unit for unit in units_of(llama(120)) if unit.category == "attention"]
    left = {unit.name for unit in units}
    for turn in range(4):
        left -= {unit.name for unit in drawn(units, 0.5, "category", 5, turn)}
        expected = 0.5 ** (turn + 1)
        assert abs(len(left) / len(units) - expected) < 4 * (expected * (1 - expected) / len(units)) ** 0.5


def test_halves_are_rounded_up_whatever_floats_make_of_them():
    assert [nearest(value) for value in (0.5, 1.5, 2.4999999999999996, 0.49, 3 * 0.1 / 0.2)] == [1, 2, 3, 0, 2]


def _shapes(kind: str, **changes) -> dict[str, tuple[int, ...]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "vocab_size": 64, "head_dim": 8, "pad_token_id": 0}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(size | changes)))
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return shapes_of(model, embeddings)


FAMILIES = {
    "llama": {"attention": 4, "feed_forward": 3, "norm": 2},
    "qwen2": {"attention": 4, "feed_forward": 3, "norm": 2},
    "qwen3": {"attention": 4, "feed_forward": 3, "norm": 4},
    "gemma2": {"attention": 4, "feed_forward": 3, "norm": 4},
    "phi3": {"attention": 2, "feed_forward": 2, "norm": 2},
    "gpt_neox": {"attention": 2, "feed_forward": 2, "norm": 2},
    "gpt2": {"attention": 2, "feed_forward": 2, "norm": 2},
    "mixtral": {"attention": 4, "feed_forward": 2, "router": 1, "norm": 2},
    "qwen3_moe": {"attention": 4, "feed_forward": 2, "router": 1, "norm": 4},
    "gpt_oss": {"attention": 4, "feed_forward": 2, "router": 1, "norm": 2, "other": 1},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_units_of_a_layer_in_every_family(family):
    small = {"mixtral": {"num_local_experts": 4}, "gpt_oss": {"num_local_experts": 4}}
    small |= {"qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16}}
    shapes = _shapes(family, **small.get(family, {}))
    units = units_of(shapes)
    assert Counter(unit.category for unit in units if unit.layer == 1) == FAMILIES[family]
    assert parameters_of(units) == shapes.keys()
    assert {unit.kind for unit in units if unit.layer == 0} == {unit.kind for unit in units if unit.layer == 1}
    half = drawn(units, 0.5, "category", 0)
    assert 0 < len(half) < len([unit for unit in units if unit.layer is not None])


def test_a_bias_goes_with_its_weight_and_experts_are_one_unit():
    qwen = {unit.name: unit for unit in units_of(_shapes("qwen2"))}
    name = "model.layers.0.self_attn.q_proj"
    assert qwen[name].parameters == (f"{name}.weight", f"{name}.bias")
    assert qwen[name].size == 32 * 32 + 32
    assert unit_name("model.layers.0.mlp.experts.gate_up_proj_bias") == "model.layers.0.mlp.experts.gate_up_proj"
    apart = units_of(_shapes("qwen2"), apart=True)
    assert [unit.category for unit in apart if unit.name == f"{name}.bias"] == ["bias"]


def test_a_selection_names_everything_outside_the_blocks():
    selection = Half().select(llama(2), None, 0)
    assert "model.norm.weight" in selection.names(0)
    assert selection.shares(0)["norm"] == 0.5
