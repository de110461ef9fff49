"""The numbers of a proof, against independent formulas."""

from __future__ import annotations

import math

import pytest
import torch

from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.data.sources import Files
from adapt.evaluation.bits_per_byte import bits_per_byte
from adapt.export.measures import Reference, Text, Window, closest, drawn_text, held_out_text, log_probabilities
from tests.conftest import ENGLISH


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    return load_model(ModelLocation(str(tiny_model_folder)), torch.float32).eval()


@pytest.fixture(scope="module")
def moved(tiny_model_folder):
    other = load_model(ModelLocation(str(tiny_model_folder)), torch.float32).eval()
    with torch.no_grad():
        other.lm_head.weight.mul_(3.0)
    return other


def source_of(write, lines) -> Files:
    return Files(files=(str(write("text.txt", "\n\n".join(lines))),), held_out=0.999)


def test_a_model_is_itself(model, tmp_path):
    numbers = Reference.of(model, drawn_text(384, 256), tmp_path).compare(model)
    assert numbers == {"kl": 0.0, "top1_agreement": 1.0}


def test_divergence_and_agreement_by_torch(model, moved, tmp_path):
    text = Text((Window([0, 9, 30, 7, 65], [0, 1, 1, 0, 1]), Window([2, 77, 41], [0, 1, 1])), 0)
    numbers = Reference.of(model, text, tmp_path).compare(moved)
    pairs = [(log_probabilities(model, window), log_probabilities(moved, window)) for window in text.windows]
    live, written = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    assert live.shape == (5, 384)
    expected = torch.nn.functional.kl_div(written, live, log_target=True, reduction="batchmean")
    assert numbers["kl"] == pytest.approx(float(expected), rel=1e-4)
    assert numbers["kl"] > 1e-3
    assert numbers["top1_agreement"] == float((live.argmax(-1) == written.argmax(-1)).float().mean())


def test_bits_are_those_of_an_evaluation(model, moved, tiny_model_folder, write, tmp_path):
    tokenizer = load_tokenizer(ModelLocation(str(tiny_model_folder)))
    source = source_of(write, [f"{index}. {line}" for index, line in enumerate(ENGLISH)])
    text = held_out_text(source, tokenizer, model.config, 500)
    assert text is not None
    reference = Reference.of(model, text, tmp_path / "live")
    from adapt.data.sources import held_out_documents

    texts = [document["text"][:500] for document in held_out_documents(source, 500)]
    assert reference.bits_per_byte == pytest.approx(bits_per_byte(model, tokenizer, texts).value, rel=1e-5)
    assert reference.compare(moved)["bits_per_byte"] == pytest.approx(
        bits_per_byte(moved, tokenizer, texts).value, rel=1e-5
    )
    assert math.isfinite(reference.bits_per_byte)


def test_the_closest_has_the_least_divergence():
    assert closest({"original": {"kl": 0.2}, "dequantised": {"kl": 0.1}, "corrected": {"kl": 0.1}}) == "dequantised"
