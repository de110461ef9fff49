"""Token distillation (methods A.2.9, J.1; F: A-22)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from adapt.errors import AdaptError
from adapt.vocabulary.alignment import Snippet, snippets
from adapt.vocabulary.initialisation.convex_hull import ConvexHull
from adapt.vocabulary.initialisation.distil import LEAST_STEPS, Distil
from adapt.vocabulary.initialisation.fitting import _with_rows, batch_of, losses
from adapt.vocabulary.initialisation.last_first import LastFirst
from adapt.vocabulary.rows import grow
from tests.conftest import ENGLISH, UKRAINIAN
from tests.vocabulary.initialisation.grown import case

PARTS = {20: (1, 2), 21: (1, 2, 3), 22: (4,), 23: tuple(range(1, 13))}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 23), max_size=40), max_size=4), st.integers(1, 9), st.integers(2, 20))
def test_positions_are_aligned_by_construction(documents, length, context):
    leaves = lambda ids: [part for index in ids for part in PARTS.get(index, (index,))]  # noqa: E731
    found = list(snippets(documents, PARTS, 0, length, context))
    for one in found:
        assert one.new[0] == one.old[0] == 0
        assert one.old[1:] == leaves(one.new[1:])
        assert len(one.new) - 1 <= length
        assert len(one.old) <= context
        assert one.start == min(place for place, index in enumerate(one.new) if place and index in PARTS)
        for place, end in enumerate(one.ends):
            assert one.old[1 : end + 1] == leaves(one.new[1 : place + 1])
    kept = sum(index in PARTS for one in found for index in one.new[1:])
    usable = [index for ids in documents for index in ids if index in PARTS and len(PARTS[index]) < context]
    assert kept == len(usable), "no occurrence is lost"


def test_aligned_positions_have_read_the_same_bytes():
    known = case()
    parts = dict(zip(known.ids, known.parts, strict=True))
    ids = [known.new.encode(text, add_special_tokens=False) for text in UKRAINIAN[:5]]
    found = list(snippets(ids, parts, 0, 200, 256))
    assert len(found) == 5
    for one, text in zip(found, UKRAINIAN, strict=False):
        assert one.old[1:] == known.old.encode(text, add_special_tokens=False)
        for place, end in enumerate(one.ends):
            assert known.new.decode(one.new[: place + 1]) == known.old.decode(one.old[: end + 1])


def prepared(tied: bool):
    known = case()
    model, _ = known.grow(ConvexHull(), tied)
    model.requires_grad_(False)
    parts = dict(zip(known.ids, known.parts, strict=True))
    ids = [known.new.encode(text, add_special_tokens=False) for text in UKRAINIAN[:4]]
    return known, model, list(snippets(ids, parts, 0, 48, 256))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_losses_are_those_of_a_model_that_holds_the_rows(tied):
    """The rows that stand beside the matrices give what the same rows inside them give, without hooks or padding."""
    known, model, found = prepared(tied)
    sides = {"input": model.get_input_embeddings()} | ({} if tied else {"output": model.get_output_embeddings()})
    rows = {side: torch.randn(len(known.ids), 64).requires_grad_() for side in sides}
    with _with_rows(model, known.ids, rows):
        states, text = losses(model, batch_of(found, model.device))
    (states + text).backward()
    assert all(float(row.grad.norm()) > 0 for row in rows.values())
    for side, module in sides.items():
        module.weight.data[known.ids] = rows[side].detach()
    apart, size, count, nats, predicted = 0.0, 0.0, 0, 0.0, 0
    for one in found:
        new = model(torch.tensor([one.new]), output_hidden_states=True)
        old = model(torch.tensor([one.old]), output_hidden_states=True).hidden_states[-1][0, one.ends]
        apart += float((new.hidden_states[-1][0] - old)[one.start :].pow(2).sum())
        size, count = size + float(old[one.start :].pow(2).sum()), count + 1
        nats += float(functional.cross_entropy(new.logits[0, :-1], torch.tensor(one.new[1:]), reduction="sum"))
        predicted += len(one.new) - 1
    assert states.item() == pytest.approx(apart / size, rel=1e-4)
    assert text.item() == pytest.approx(nats / predicted, rel=1e-4)


def test_the_state_loss_trains_input_rows_and_the_text_loss_output_rows():
    known, model, found = prepared(tied=False)
    rows = {side: torch.randn(len(known.ids), 64).requires_grad_() for side in ("input", "output")}
    with _with_rows(model, known.ids, rows):
        states, text = losses(model, batch_of(found, model.device))
    for loss, trained, other in ((states, "input", "output"), (text, "output", "input")):
        gradients = torch.autograd.grad(loss, [rows[trained], rows[other]], allow_unused=True, retain_graph=True)
        assert float(gradients[0].norm()) > 0
        assert gradients[1] is None


def test_without_new_pieces_the_states_agree():
    known, model, _ = prepared(tied=False)
    ids = [0, *known.new.encode(ENGLISH[0], add_special_tokens=False)]
    ids = [index for index in ids if index not in known.ids]
    rows = {side: torch.randn(len(known.ids), 64).requires_grad_() for side in ("input", "output")}
    with _with_rows(model, known.ids, rows):
        states, _ = losses(model, batch_of([Snippet(ids, ids, list(range(len(ids))), 1)], model.device))
    assert states.item() == 0


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_it_fits_the_rows_and_nothing_else(tied):
    known = case()
    before = known.grow(ConvexHull(), tied)[0]
    model, report = known.grow(Distil(start=ConvexHull(), steps=30, batch=4), tied)
    told = report["distil"]
    assert told["steps"] == 30
    assert told["loss_after"]["states"] < 0.7 * told["loss_before"]["states"]
    if not tied:  # tied rows serve the states first, the text's loss is brought to the size of the states'
        assert told["loss_after"]["text"] < told["loss_before"]["text"]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    old = [row for row in range(known.height) if row not in known.ids]
    for name, value in model.state_dict().items():
        was = before.state_dict()[name]
        rows = "embed_tokens" in name or "lm_head" in name
        assert torch.equal(value[old], was[old]) if rows else torch.equal(value, was)


def test_rows_that_no_text_shows_keep_their_start():
    known = case()
    text = UKRAINIAN[:1]
    start = known.grow(ConvexHull())[0]
    model = known.model()
    evidence = known.evidence(model, text)
    _, report = known.grow(Distil(start=ConvexHull(), steps=3), model=model, evidence=evidence)
    shown = set(known.new.encode(text[0], add_special_tokens=False))
    hidden = [index for index in known.ids if index not in shown]
    moved = [index for index in known.ids if index in shown]
    assert report["distil"]["rows_without_text"] == len(hidden) > 0
    for side in ("get_input_embeddings", "get_output_embeddings"):
        was, now = getattr(start, side)().weight, getattr(model, side)().weight
        assert torch.equal(now[hidden], was[hidden])
        assert ((now - was)[moved].norm(dim=1) > 0).all()


def test_it_goes_on_from_what_its_start_reports():
    _, report = case().grow(Distil(start=LastFirst(), steps=1), tied=True)
    assert report["notes"] == ["last_first: input and output are one matrix, so the rows are those of mean_of_pieces"]


def test_a_time_limit_ends_it_after_a_step():
    _, report = case().grow(Distil(steps=50, minutes=1e-6))
    assert report["distil"]["steps"] == 1


def test_text_without_new_pieces_leaves_the_rows_of_the_start_and_says_so():
    known = case()
    model = known.model()
    _, report = known.grow(Distil(), model=model, evidence=known.evidence(model, ["7"]))
    start, _ = known.grow(Distil().start)
    assert report["notes"] == [
        "no new piece occurs in the corpus, so distil had nothing to fit and the rows are those of its start"
    ]
    rows = torch.tensor(list(known.ids))
    for side in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(model, side)().weight[rows], getattr(start, side)().weight[rows])


def test_the_number_of_updates_grows_with_the_number_of_pieces():
    known = case()
    _, report = known.grow(Distil())
    assert report["distil"]["steps"] == LEAST_STEPS > len(known.ids) // 5


def test_without_text_it_is_refused():
    known = case()
    with pytest.raises(AdaptError, match=r"^init 'distil' looks at text, but none was given; call grow with evidence$"):
        grow(known.model(), known.ids, known.parts, known.ordinary, Distil(), 0)
