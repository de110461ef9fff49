"""Growing a model's matrices (methods F: A-10, A-11, A-20, A-21)."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

from adapt.vocabulary.initialisation.mean_of_pieces import MeanOfPieces
from adapt.vocabulary.rows import grow, ordinary_rows
from tests.conftest import ENGLISH, make_model, make_tokenizer

OLD, NEW = 40, [40, 41, 42, 43, 44]
PARTS = [(3, 5), (7, 1, 2), (40 - 1, 4), (9, 9), (10, 11)]
ORDINARY = torch.arange(2, OLD)
IDS = torch.arange(2, 34)[None]


def grown(model, parts=PARTS, ids=NEW):
    report = grow(model, ids, parts, ORDINARY, MeanOfPieces(), seed=0)
    return model, report


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_old_rows_stay_bit_for_bit_and_each_side_is_its_own(tied, dtype):
    model = make_model(OLD, tied=tied).to(dtype)
    before = [
        module.weight.detach().clone() for module in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    model, report = grown(model)
    after = [module.weight for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert (after[0] is after[1]) == tied
    assert set(report) == ({"tied"} if tied else {"input", "output"})
    for old, new in zip(before, after, strict=True):
        assert new.dtype == dtype
        assert torch.equal(new[:OLD], old)
        assert torch.equal(new[OLD], ((old[3].float() + old[5].float()) / 2).to(dtype))
    assert model.config.vocab_size == OLD + 5


def test_old_logits_do_not_change():
    model = make_model(OLD)
    before = model(IDS).logits
    after = grown(model)[0](IDS).logits
    assert torch.allclose(after[..., :OLD], before, atol=1e-6)


def test_the_loss_on_old_text_grows_by_the_mass_of_the_new_rows():
    model = make_model(OLD)
    before = model(IDS).logits.log_softmax(-1)
    model = grown(model)[0]
    logits = model(IDS).logits
    mass = logits[..., OLD:].exp().sum(-1) / logits[..., :OLD].exp().sum(-1)
    assert torch.allclose(logits.log_softmax(-1)[..., :OLD], before - torch.log1p(mass)[..., None], atol=1e-5)
    assert torch.log1p(mass).mean().item() < 2 * math.log(1 + 5 / OLD)


def test_ids_on_padding_rows_are_initialised_and_the_matrix_never_shrinks():
    model = make_model(OLD + 64)
    padding = model.get_input_embeddings().weight[OLD + 5 :].detach().clone()
    model = grown(model)[0]
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == model.config.vocab_size == OLD + 64
    assert torch.allclose(weight[OLD], (weight[3] + weight[5]) / 2)
    assert torch.equal(weight[OLD + 5 :], padding)


def test_without_new_pieces_nothing_changes():
    model, report = grown(make_model(OLD), parts=[], ids=[])
    assert report == {}
    assert torch.equal(model(IDS).logits, make_model(OLD)(IDS).logits)


def test_ids_that_begin_on_padding_and_end_behind_it():
    model = grown(make_model(OLD + 2))[0]
    weight = model.get_output_embeddings().weight
    assert weight.shape[0] == OLD + 5
    assert torch.allclose(weight[OLD + 4], (weight[10] + weight[11]) / 2)


@pytest.mark.parametrize("tied", [True, False])
def test_tying_survives_saving(tmp_path, tied):
    model = grown(make_model(OLD, tied=tied))[0]
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_other_families_and_a_head_with_a_bias():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=OLD, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    assert grown(gpt2)[0].get_output_embeddings().weight.shape == (OLD + 5, 32)
    config = PhiConfig(
        vocab_size=OLD, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    phi = PhiForCausalLM(config)
    torch.nn.init.normal_(phi.lm_head.bias)
    bias = grown(phi)[0].lm_head.bias
    assert torch.allclose(bias[OLD], (bias[3] + bias[5]) / 2)


def test_ordinary_rows_leave_out_special_tokens_and_padding():
    tokenizer = make_tokenizer(ENGLISH)
    rows = ordinary_rows(tokenizer, len(tokenizer) + 8)
    assert set(rows.tolist()) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)
