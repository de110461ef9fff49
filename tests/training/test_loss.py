"""The loss over two tables: in chunks it is the loss of the model's own logits, for every family and in parallel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.training import loss as losses
from adapt.training.two_tables import TwoTableEmbedding, TwoTableHead, set_apart
from tests.conftest import make_model


def _families():
    from transformers import CohereConfig, Gemma2Config, Gemma3TextConfig, GraniteConfig, PhiConfig, Qwen3Config

    kinds = (CohereConfig, Gemma2Config, Gemma3TextConfig, GraniteConfig, PhiConfig, Qwen3Config)
    changes = {"granite": {"logits_scaling": 4.0}, "gemma2": {"final_logit_softcapping": 3.0}}
    return {kind.model_type: (kind, changes.get(kind.model_type, {})) for kind in kinds}


def _small(family):
    from transformers import AutoModelForCausalLM

    kind, changes = _families()[family]
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "vocab_size": 96}
    ids = {"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**size, **more, **ids, **changes)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            model.get_output_embeddings().bias.normal_()
    return model


@pytest.mark.parametrize("ids", [[1, 40, 41, 90], [92, 93, 94, 95]], ids=["scattered", "at the end"])
@pytest.mark.parametrize("family", ["cohere", "gemma2", "gemma3_text", "granite", "phi", "qwen3"])
def test_every_family_begins_as_it_was_and_its_chunked_loss_is_its_own(family, ids, monkeypatch):
    model = _small(family)
    text = torch.randint(0, 96, (3, 12), generator=torch.Generator().manual_seed(1))
    labels = text.masked_fill(text % 5 == 0, -100)
    with torch.no_grad():
        before, answer = model(text).logits, model.generate(text[:, :3], max_new_tokens=5, do_sample=False)
    set_apart(model, torch.tensor(ids))
    losses.add_chunked_loss(model)
    monkeypatch.setattr(losses, "CHUNK", 5 * 96)
    losses.check_chunked_loss(model)
    assert torch.allclose(model(text).logits, before, atol=1e-5)
    assert torch.equal(model.generate(text[:, :3], max_new_tokens=5, do_sample=False), answer)
    gradients = []
    for value in (
        losses.whole_loss(model(text).logits, labels),
        model(input_ids=text, labels=labels, chunked_loss=True)["loss"],
    ):
        model.zero_grad()
        value.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-6), name


def test_a_family_whose_logits_are_misread_is_one_line():
    model = _small("qwen3")
    set_apart(model, torch.tensor([3, 4]))
    model.config.logit_scale = 3.0  # a name that other families multiply by
    losses.add_chunked_loss(model)
    with pytest.raises(AdaptError, match=r"the logits of 'qwen3' are not h W\^T in any form known here \(loss"):
        losses.check_chunked_loss(model)


def test_an_embedding_that_is_more_than_a_lookup_is_one_line():
    class Odd(torch.nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) + 1

    model = make_model(64)
    model.set_input_embeddings(Odd(64, 64))
    with pytest.raises(AdaptError, match=r"\(Odd\) is more than a lookup, so its rows cannot train by themselves"):
        set_apart(model, torch.tensor([3, 4]))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 9),
    st.sets(st.integers(0, 10), min_size=1, max_size=11),
    st.integers(1, 60),
    st.booleans(),
    st.data(),
)
def test_lookup_loss_and_gradients_are_those_of_the_assembled_matrix(count, found, chunk, capped, data):
    ids = torch.tensor(sorted(found))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    table, width = torch.randn(11, 6, generator=generator), 6
    rows = torch.nn.Parameter(torch.randn(len(ids), width, generator=generator))
    embedding = torch.nn.Embedding(11, width, _weight=table.clone(), _freeze=True)
    head = torch.nn.Linear(width, 11, bias=False).requires_grad_(False)
    head.weight.data = table.clone()
    lookup, head = TwoTableEmbedding(embedding, rows, ids), TwoTableHead(head, rows, ids)
    tokens, targets = torch.randint(0, 11, (2, count), generator=generator)
    form = losses.LogitForm(0.7, 2.0) if capped else losses.LogitForm()
    own = losses.two_table_loss(lookup(tokens), head, targets, form, chunk)
    own.backward()
    whole = torch.nn.Parameter(table.index_copy(0, ids, rows.detach()))
    logits = whole[tokens] @ whole.T
    logits = 2 * torch.tanh(0.7 * logits / 2) if capped else logits
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    expected.backward()
    assert own.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    assert torch.allclose(rows.grad, whole.grad[ids], atol=1e-5)


def test_a_mixture_of_experts_keeps_its_balance(monkeypatch):
    from transformers import MixtralConfig, MixtralForCausalLM

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(**size, num_key_value_heads=1, vocab_size=96, num_local_experts=4, num_experts_per_tok=2)
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    set_apart(model, torch.tensor([90, 91]))
    losses.add_chunked_loss(model)
    text = torch.randint(0, 96, (2, 9))
    with torch.no_grad():
        whole = model(input_ids=text, output_router_logits=True)
        chunked = model(input_ids=text, labels=text, output_router_logits=True, chunked_loss=True)
    assert float(chunked["aux_loss"]) == pytest.approx(float(whole["aux_loss"]), rel=1e-5)
    assert float(chunked["loss"]) == pytest.approx(float(losses.whole_loss(whole.logits, text)), rel=1e-5)


@pytest.fixture
def one_process(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_both_losses_go_through_distributed_data_parallel(tied, one_process):
    """Its search for unused parameters sees the rows, and each of them is reduced once."""
    from torch.nn.parallel import DistributedDataParallel

    model = make_model(64, tied=tied).requires_grad_(False)
    rows = set_apart(model, torch.tensor([60, 61]))
    losses.add_chunked_loss(model)
    wrapped, text = DistributedDataParallel(model, find_unused_parameters=True), torch.randint(0, 64, (2, 9))
    for _ in range(2):
        chunked = wrapped(input_ids=text, labels=text, chunked_loss=True)["loss"]
        chunked.backward()
        found = [row.grad.clone() for row in rows]
        model.zero_grad()
        losses.whole_loss(wrapped(input_ids=text).logits, text).backward()
        assert all(torch.allclose(row.grad, own, atol=1e-4) for row, own in zip(rows, found, strict=True))
        model.zero_grad()
