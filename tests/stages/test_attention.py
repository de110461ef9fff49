"""Families without torch's fused attention train with the one that they have."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig

from adapt.errors import AdaptError
from adapt.stages.train import Train
from adapt.training.precision import Precision, attention
from tests.conftest import ENGLISH, make_tokenizer
from tests.stages.workshop import context, json_sources

SMALL = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 16,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
}
FAMILIES = {"gemma2": (Gemma2ForCausalLM, Gemma2Config), "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig)}
CPU = Precision(torch.device("cpu"), False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stage_over_a_gemma(family, tmp_path):
    model, config = FAMILIES[family]
    tokenizer = make_tokenizer(ENGLISH)
    model(config(**SMALL | {"vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    texts = [{"text": f"{index}. {line}"} for index, line in enumerate(ENGLISH)]
    sources = json_sources(tmp_path, {"text": texts})
    stage = Train(
        kind="train",
        model="base",
        mixture={"text": 1},
        method={"kind": "lora", "r": 2},
        schedule={"kind": "linear", "peak": 1e-2},
        tokens=600,
        sequence_length=32,
        batch_size=4,
        evaluations=1,
        report_to=[],
    )
    metrics = stage.run(context(tmp_path / "run", tmp_path / "base", sources))
    assert metrics["merge"]["written"]["kl"] < 1e-5
    assert metrics["target"]["text"]["end"] < metrics["target"]["text"]["start"]


def test_what_a_family_lacks_is_chosen_around_or_refused():
    assert attention("auto", CPU, LlamaConfig()) == attention("sdpa", CPU, Gemma3TextConfig()) == "sdpa"
    assert attention("auto", CPU, Gemma2Config()) == "eager"
    with pytest.raises(AdaptError, match=r"^attention 'sdpa' is none that models of type 'gemma2' have; use auto$"):
        attention("sdpa", CPU, Gemma2Config())
