"""What the model sees of a packed row: every document as if it stood alone (design rule 7)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from adapt.data.stream import collate
from tests.conftest import make_model

VOCABULARY = 60
DOCUMENTS = [[5, 9, 12, 7, 3], [8], [11, 4, 4, 30, 2, 6, 17], [50, 51]]


def row(documents):
    labels = [[-100, *ids[1:]] for ids in documents]
    positions = [list(range(len(ids))) for ids in documents]
    columns = zip(("input_ids", "labels", "position_ids"), (documents, labels, positions), strict=True)
    return {name: [value for part in parts for value in part] for name, parts in columns} | {"source": "s"}


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    return make_model(VOCABULARY, attn_implementation=request.param)


@pytest.fixture
def batch():
    """Two rows: the first is shorter and padded at its end."""
    return collate([row(DOCUMENTS), row([*DOCUMENTS[::-1], [20, 21, 22]])], pad_id=1)


def test_collated_rows(batch):
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(batch, (2, 18))
    assert batch["labels"][0, -3:].tolist() == [-100] * 3
    assert batch["input_ids"][0, -3:].tolist() == [1] * 3
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 0, 1, 2]


def test_packed_logits_are_separate_logits(model, batch):
    packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
    begin = 0
    for ids in DOCUMENTS:
        alone = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert torch.allclose(packed[begin : begin + len(ids)], alone, atol=1e-5)
        begin += len(ids)


def test_no_gradient_flows_from_one_document_to_another(model, batch):
    embedded = model.get_input_embeddings()(batch["input_ids"][:1]).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=batch["position_ids"][:1], use_cache=False).logits
    logits[0, 6:13].square().sum().backward()
    reached = embedded.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [6 <= place < 13 for place in range(18)]


def test_packed_loss_is_the_mean_over_all_trained_tokens(model, batch):
    packed = model(**batch, use_cache=False).loss
    losses, count = 0.0, 0
    for ids in [*DOCUMENTS, *DOCUMENTS[::-1], [20, 21, 22]]:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        losses += cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item() if len(ids) > 1 else 0.0
        count += len(ids) - 1
    assert packed.item() == pytest.approx(losses / count, abs=1e-5)


def test_the_check_can_fail(model, batch):
    """With an attention mask transformers does not keep documents apart: what the collator leaves out matters."""
    leaking = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=torch.ones_like(batch["input_ids"]),
        use_cache=False,
    ).logits[0]
    alone = model(input_ids=torch.tensor([DOCUMENTS[2]]), use_cache=False).logits[0]
    assert not torch.allclose(leaking[6:13], alone, atol=1e-3)
