"""llama.cpp itself loads the files: the same probabilities, the same tokens, the same answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.export.gguf.write import Plan, write
from tests.export.conftest import sentencepiece_model
from tests.export.test_gguf_model import FAMILIES, make

llama = pytest.importorskip("xllamacpp", reason="llama.cpp in a wheel: pip install 'adapt[llama-cpp]'")
pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[2] / "examples" / "models" / "tiny-en-instruct"
TEXTS = ("The number 45 is written", "On 5 March 2020 it's\n\n  Число 45,  дванадцять!", "a")


def server(file: Path):
    settings = llama.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.warmup = 256, 1, False
    settings.cpuparams.n_threads = 1
    return llama.Server(settings)


def log_probabilities(found, prompt, size: int) -> torch.Tensor:
    asked = {"prompt": prompt, "n_predict": 1, "n_probs": size, "temperature": 0.0, "cache_prompt": False}
    answer = found.handle_completions(asked)
    said = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    values = torch.full((size,), float("-inf"))
    for entry in said:
        values[entry["id"]] = entry["logprob"]
    return values


def expected(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def prompt(folder: Path) -> list[int]:
    """Ten ids after which a model says a whole character: llama.cpp gives no probabilities for half of one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for last in range(90, 380):
        ids = [0, 9, 300, 77, 41, 200, 150, 33, 8, last]
        first = int(expected(folder, ids).argmax())
        if tokenizer.decode(first).isascii() and first not in tokenizer.added_tokens_decoder:
            return ids
    raise AssertionError("the model says nothing")


def divergence(live: torch.Tensor, written: torch.Tensor) -> float:
    kept = torch.isfinite(written)
    return float((live.exp() * (live - written))[kept].sum())


@pytest.mark.parametrize("kind", ["bf16", "f16", "q8_0"])
@pytest.mark.parametrize(("family", "changes"), FAMILIES.values(), ids=FAMILIES)
def test_the_same_probabilities(family, changes, kind, tmp_path):
    folder = make(tmp_path / "model", family, changes, torch.bfloat16)
    plan = Plan.of(folder, kind)
    write(plan, tmp_path / "model.gguf", "tiny")
    ids = prompt(folder)
    found = log_probabilities(server(tmp_path / "model.gguf"), ids, plan.checkpoint.height)
    live = expected(folder, ids)
    assert abs(divergence(live, found)) < (0.02 if kind == "q8_0" else 1e-3)
    assert torch.corrcoef(torch.stack([live.exp(), found.exp()]))[0, 1] > 0.99


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_cut_into_the_same_tokens(text, tmp_path):
    write(Plan.of(TINY, "bf16"), tmp_path / "tiny.gguf", "tiny")
    found, ids = server(tmp_path / "tiny.gguf"), AutoTokenizer.from_pretrained(TINY)(text)["input_ids"]
    by_text, by_ids = (log_probabilities(found, prompt, 1800) for prompt in (text, ids))
    assert torch.equal(by_text, by_ids)
    assert abs(divergence(expected(TINY, ids), by_text)) < 1e-3


@pytest.mark.parametrize("own_file", [True, False], ids=["tokenizer.model", "merges"])
def test_sentencepiece_is_cut_into_the_same_tokens(own_file, tmp_path):
    folder = sentencepiece_model(tmp_path)
    if not own_file:
        (folder / "tokenizer.model").unlink()
    write(Plan.of(folder, "f16"), tmp_path / "pieces.gguf", "tiny")
    found, tokenizer = server(tmp_path / "pieces.gguf"), AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, "Тиждень має сім днів: понеділок, вівторок", "émoji 🙂 ї"):
        said = found.handle_completions({"prompt": text, "n_predict": 1, "cache_prompt": False})
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert said["usage"]["prompt_tokens"] == len(ids), text


def test_the_same_answer(tmp_path):
    write(Plan.of(TINY, "f16"), tmp_path / "tiny.gguf", "tiny")
    tokenizer, turns = AutoTokenizer.from_pretrained(TINY), [{"role": "user", "content": "Write 45 in words."}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    answer = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    asked = {"messages": turns, "temperature": 0.0, "max_tokens": 20}
    said = server(tmp_path / "tiny.gguf").handle_chat_completions(asked)["choices"][0]["message"]["content"]
    assert said.strip() == tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_a_model_without_its_tokenizer_file_is_refused(tmp_path):
    from adapt.errors import AdaptError

    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(AdaptError, match=r"cannot read '.*tokenizer.json'"):
        Plan.of(tmp_path / "model", "f16")
