"""An adapter carries its vocabulary: on the plain base, which lacks the new pieces, it is the model that trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import adapt
from adapt.errors import AdaptError
from adapt.methods.adapter import ROWS_FILE, digest_rows
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer

GROWTH = {"init": "mean_of_pieces", "add": 12, "measure": 0, "pad_to_multiple_of": 8}
METHODS = {
    "cpt": {"kind": "lora", "r": 2, "train_embeddings": "new_rows"},
    "frozen": {"kind": "lora", "r": 2},
    "rows": {"kind": "rows"},
}


def recipe(folder: Path) -> dict:
    train = {
        "kind": "train",
        "model": "grown",
        "mixture": {"target": 1.0},
        "schedule": {"kind": "linear", "peak": "5e-3"},
        "tokens": "500",
        "sequence_length": 32,
        "batch_size": 4,
        "evaluations": 1,
        "report_to": [],
    }
    return {
        "name": "carried",
        "runs": str(folder / "runs"),
        "models": {"base": str(folder / "base")},
        "data": {"target": {"files": str(folder / "uk.txt"), "held_out": 0.1}},
        "stages": {"grown": {"kind": "expand_vocabulary", "model": "base", "corpus": "target", **GROWTH}}
        | {name: {**train, "method": method} for name, method in METHODS.items()},
    }


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def trained(request, tmp_path_factory):
    """A base, and the folders of the stages that were trained on its grown copy."""
    folder = tmp_path_factory.mktemp("carried")
    tokenizer = make_tokenizer(ENGLISH)
    make_model(len(tokenizer) + 2, tied=request.param).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "uk.txt").write_text("\n".join(f"{index} {line}" for index, line in enumerate(UKRAINIAN)))
    (folder / "recipe.yaml").write_text(json.dumps(recipe(folder)))
    stages = adapt.run(folder / "recipe.yaml").outcome.stages
    return folder / "base", {name: result.folder for name, result in stages.items()}


def logits(model, ids):
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("name", METHODS)
def test_on_the_plain_base_it_is_the_written_model(name, trained):
    base, stages = trained
    model, tokenizer = adapt.load_adapter(stages[name] / "adapter", base)
    written = AutoModelForCausalLM.from_pretrained(stages[name] / "model").eval()
    expected = AutoTokenizer.from_pretrained(stages[name] / "model")("\n".join(UKRAINIAN[:5]))["input_ids"]
    ids = tokenizer("\n".join(UKRAINIAN[:5]))["input_ids"]
    assert ids == expected
    assert max(ids) >= 384  # new pieces are in use
    assert model.config.vocab_size == written.config.vocab_size == 400
    ids = torch.tensor([ids[:120]])
    assert torch.allclose(logits(model, ids), logits(written, ids), atol=1e-5)
    again, _ = adapt.load_adapter(stages[name] / "adapter")
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_peft_loads_it_after_one_call(trained):
    from peft import PeftModel

    base, stages = trained
    folder = stages["cpt"] / "adapter"
    model = adapt.grow_for_adapter(AutoModelForCausalLM.from_pretrained(base), folder)
    live = PeftModel.from_pretrained(model, folder).eval()
    ids = torch.arange(300, 400).unsqueeze(0)
    expected, _ = adapt.load_adapter(folder, base)
    assert torch.equal(logits(live, ids), logits(expected, ids))


def test_it_holds_the_new_rows_alone(trained):
    base, stages = trained
    tied = len(load_file(base / "model.safetensors")) < 21
    grown = load_file(stages["grown"] / "model" / "model.safetensors")
    for name in METHODS:
        rows = load_file(stages[name] / "adapter" / ROWS_FILE)
        assert rows.pop("ids").tolist() == list(range(384, 400))
        assert (
            sorted(rows) == ["model.embed_tokens.weight"] if tied else ["lm_head.weight", "model.embed_tokens.weight"]
        )
        same = [torch.equal(rows[key], grown[key][384:]) for key in rows]
        assert all(same) if name == "frozen" else not any(same)
    assert (stages["cpt"] / "adapter" / "adapt_vocabulary.json").exists()
    assert not (stages["rows"] / "adapter" / "adapter_config.json").exists()


def test_another_base_is_one_line(trained, tmp_path):
    base, stages = trained
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] += 1
    with pytest.raises(AdaptError, match=r"over another base than this: its 'model\.embed_tokens\.weight' is not that"):
        adapt.grow_for_adapter(model, stages["cpt"] / "adapter")
    later = AutoModelForCausalLM.from_pretrained(stages["cpt"] / "model")
    with pytest.raises(AdaptError, match="over another base than this: its 'blocks' is not that of"):
        adapt.grow_for_adapter(later, stages["cpt"] / "adapter")
    model.resize_token_embeddings(300)
    with pytest.raises(AdaptError, match=r"the base has 300 embedding rows, and the adapter in .* carries no row 300"):
        adapt.grow_for_adapter(model, stages["cpt"] / "adapter")
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    with pytest.raises(AdaptError, match="which are not the embeddings of this base"):
        adapt.grow_for_adapter(make_model(386, tied=not tied), stages["cpt"] / "adapter")


def test_another_tokenizer_is_one_line(trained, tmp_path):
    base, stages = trained
    shutil.copytree(base, tmp_path / "other")
    make_tokenizer(UKRAINIAN).save_pretrained(tmp_path / "other")
    with pytest.raises(AdaptError, match=r"is not grown from the base's: '.*' has id \w+ there and \d+ in the base"):
        adapt.load_adapter(stages["cpt"] / "adapter", tmp_path / "other")
    with pytest.raises(AdaptError, match="holds no adapter"):
        adapt.load_adapter(tmp_path / "other", base)


def test_a_quantised_base_takes_the_adapter(trained):
    from transformers import BitsAndBytesConfig

    base, stages = trained
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model, tokenizer = adapt.load_adapter(stages["cpt"] / "adapter", base, quantization_config=four_bits)
    plain, _ = adapt.load_adapter(stages["cpt"] / "adapter", base)
    ids = torch.tensor([tokenizer(UKRAINIAN[0])["input_ids"]])
    assert (logits(model, ids) - logits(plain, ids)).abs().mean() < 0.1


def test_a_base_of_another_format_is_the_same_base(trained):
    base, stages = trained
    model, _ = adapt.load_adapter(stages["cpt"] / "adapter", base, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    weight = torch.randn(9, 4).bfloat16()
    half = adapt.grow_for_adapter(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), stages["rows"] / "adapter"
    )
    assert half.dtype == torch.bfloat16
    assert digest_rows(weight, torch.tensor([3])) == digest_rows(weight.float(), torch.tensor([3]))
    assert digest_rows(weight, torch.tensor([3])) != digest_rows(weight, torch.tensor([4]))
    with safe_open(stages["cpt"] / "adapter" / ROWS_FILE, framework="pt") as file:
        assert file.metadata()["base"].endswith("model")
