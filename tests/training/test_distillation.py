"""Distillation: the loss against its formula, chunks, a student that comes closer, other vocabularies, resume."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.errors import AdaptError
from adapt.methods.lora import Lora
from adapt.mixture.adapters import fresh_part
from adapt.mixture.assembly import mixture_of
from adapt.mixture.bases import Base
from adapt.training.distillation import divergence as module
from adapt.training.distillation.divergence import Head, Scale, Teacher, divergence
from adapt.training.distillation.held_out import windows_of
from adapt.training.distillation.sharing import share_frozen
from adapt.training.loss import LogitForm
from tests.conftest import UKRAINIAN, make_model, make_tokenizer
from tests.mixture.domain_world import context, ids_of, logits, stage


def parts(seed: int = 0):
    torch.manual_seed(seed)
    heads = tuple(Head(nn.Linear(8, 30, bias=False), LogitForm()) for _ in range(2))
    return torch.randn(11, 8, requires_grad=True), torch.randn(11, 8), torch.randint(0, 30, (11,)), heads


@pytest.mark.parametrize(("temperature", "hard"), [(1.0, 0.0), (2.5, 0.3)])
def test_the_loss_is_hintons(temperature, hard):
    hidden, reference, targets, heads = parts()
    student, teacher = heads[0].module(hidden), heads[1].module(reference)
    p, q = (each.div(temperature).softmax(-1) for each in (teacher, student))
    soft = temperature**2 * (p * (p / q).log()).sum()
    expected = (1 - hard) * soft + hard * nn.functional.cross_entropy(student, targets, reduction="sum")
    found = divergence(hidden, reference, targets, heads, Scale(temperature, hard))
    assert torch.allclose(found, expected, rtol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    gradients = []
    for size in (2**25, 90):  # 90 logits: three positions at a time
        monkeypatch.setattr(module, "CHUNK", size)
        hidden, reference, targets, heads = parts()
        divergence(hidden, reference, targets, heads, Scale(1.5, 0.2)).backward()
        gradients.append((hidden.grad, heads[0].module.weight.grad))
        assert heads[1].module.weight.grad is None
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_a_teacher_gives_its_last_hidden_vectors_and_stays():
    model, ids = make_model(384), ids_of()
    teacher = Teacher(model)
    hidden = teacher.hidden({"input_ids": ids, "use_cache": False})
    assert torch.allclose(teacher.head.logits(hidden), logits(model, ids), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_model_folder):
    """A model that was trained a little on one of the domains."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    folder.mkdir()
    stage(mixture={"uk": 1}, method={"kind": "lora", "r": 4}).run(context(folder, tiny_model_folder))
    return folder / "model"


def distilled(folder, base, teacher, **changes):
    folder.mkdir(parents=True)
    settings = {
        "objective": {"kind": "distil", "teacher": "teacher"},
        "mixture": {"uk": 1},
        "method": {"kind": "lora", "r": 8},
        "tokens": "6k",
    }
    trained = stage(**(settings | changes))
    found = context(folder, base)
    found.models["teacher"] = ModelLocation(str(teacher))
    assert [reference.name for reference in trained.reads().models] == ["base", "teacher"]
    return trained.run(found)


def test_the_student_comes_closer_to_the_teacher(tmp_path, tiny_model_folder, teacher):
    numbers = distilled(tmp_path / "run", tiny_model_folder, teacher)
    closeness = numbers["distillation"]
    assert closeness["end"]["kl"] < 0.5 * closeness["start"]["kl"]
    assert closeness["end"]["top1_agreement"] > closeness["start"]["top1_agreement"]
    assert numbers["target"]["uk"]["end"] < numbers["target"]["uk"]["start"]
    assert "bits_per_byte" not in (tmp_path / "run" / "log.jsonl").read_text().split('"train"')[1].split("\n")[0]


def over_mixture(base):
    model = load_model(base)
    parts = {name: fresh_part({"model.layers.0.mlp.up_proj": (64, 128)}, 2, 4, Base.of(base)) for name in "ab"}
    return mixture_of(model, parts, base=Base.of(base))


def test_a_teacher_over_the_same_base_shares_it(tiny_model_folder):
    base = ModelLocation(str(tiny_model_folder))
    student, ids = Lora(r=2).attach(load_model(base)), ids_of()
    plain = logits(load_model(base).eval(), ids)
    for make in (load_model, lambda at: Lora(r=4).attach(load_model(at)), over_mixture):
        teacher = make(base).requires_grad_(False).eval()
        expected = logits(teacher, ids)
        size = sum(parameter.nbytes for parameter in load_model(base).parameters())
        assert share_frozen(teacher, student) == size
        assert share_frozen(teacher, student) == 0
        assert torch.equal(logits(teacher, ids), expected)
    assert torch.equal(logits(student.eval(), ids), plain)


def test_what_differs_or_will_change_is_not_shared(tiny_model_folder):
    from adapt.methods.selection.turns import Turns

    base = ModelLocation(str(tiny_model_folder))
    student, teacher = Lora(r=2).attach(load_model(base)), load_model(base).requires_grad_(False)
    with torch.no_grad():
        teacher.get_input_embeddings().weight[3] += 1
    own = teacher.get_input_embeddings().weight
    assert share_frozen(teacher, load_model(base)) == 0  # all of it trains
    assert share_frozen(teacher, student, [Turns.__new__(Turns)]) == 0
    assert share_frozen(teacher, student) > 0
    assert teacher.get_input_embeddings().weight is own


def test_a_teacher_of_another_vocabulary_is_one_line(tmp_path, tiny_model_folder):
    tokenizer = make_tokenizer(UKRAINIAN)
    make_model(len(tokenizer)).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(AdaptError, match=r"has another vocabulary than the student: \d+ tokens differ, the first is"):
        distilled(tmp_path / "run", tiny_model_folder, tmp_path / "other")


def test_conversations_count_their_answers(tiny_model_folder):
    tokenizer = load_tokenizer(ModelLocation(str(tiny_model_folder)))
    chat = {"messages": [{"role": "user", "content": "Twelve?"}, {"role": "assistant", "content": "12"}]}
    text, talk = windows_of([{"text": "The number 45."}, chat], tokenizer, 40)
    assert sum(text.counted) == len(text.ids) - 1
    assert tokenizer.decode([i for i, c in zip(talk.ids, talk.counted, strict=True) if c]).startswith("12")
