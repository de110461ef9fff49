"""Adapters that do not fit a base or each other: one clear line each, from a command and from a recipe."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.cli import app
from tests.conftest import ENGLISH, UKRAINIAN, make_model
from tests.mixture.shop import write_adapter

WEIGHTS = "adapter_model.safetensors"
FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
BAD = {
    "of another base": "adapter 'dates' was trained over another base: the weights of '{}/other' are not those of",
    "of another shape": "adapter 'dates' has factors of shape [4, 7] and [64, 4] for 'model.layers.0.mlp.down_proj'",
    "lacking a tensor": "adapter 'dates' holds only lora_B of 'model.layers.0.mlp.down_proj'; its file is not whole",
    "lacking a layer": "adapter 'dates' is to change 'model.layers.1.self_attn.q_proj', but its",
    "of another vocabulary": "'novel' has id 384 there and none in the base; a mixture has one vocabulary",
    "cut short": f"{WEIGHTS}' is cut short or broken",
}
RECIPE = """\
name: mix
runs: {folder}/runs
models: {{base: {base}}}
data:
  dates: {{files: {folder}/dates.jsonl, held_out: 0.2}}
  numbers: {{files: {folder}/numbers.jsonl, held_out: 0.2}}
stages:
  gates:
    kind: train
    model: base
    mixture: {{dates: 0.5, numbers: 0.5}}
    method: {{kind: mixture_of_lora, adapters: {{dates: {bad}, numbers: {good}}}}}
    tokens: 300
    sequence_length: 64
    batch_size: 2
    report_to: []
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory, tiny_model_folder, adapters):
    """Folders of adapters, each with a fault of its own."""
    place = tmp_path_factory.mktemp("bad")
    tokenizer = load_tokenizer(ModelLocation(str(tiny_model_folder)))
    make_model(384, seed=9).save_pretrained(place / "other")
    tokenizer.save_pretrained(place / "other")
    write_adapter(place / "other", place / "of another base", 1, r=2, target_modules=["q_proj"])
    for name in list(BAD)[1:]:
        shutil.copytree(adapters["dates"], place / name)
    tensors = load_file(adapters["dates"] / WEIGHTS)
    changed = {
        "of another shape": tensors | {FIRST: torch.zeros(4, 7)},
        "lacking a tensor": {name: tensor for name, tensor in tensors.items() if name != FIRST},
        "lacking a layer": {name: tensor for name, tensor in tensors.items() if "layers.1" not in name},
    }
    for name, values in changed.items():
        save_file(values, place / name / WEIGHTS, metadata={"format": "pt"})
    tokenizer.add_tokens(["novel"])
    tokenizer.save_pretrained(place / "of another vocabulary")
    file = place / "cut short" / WEIGHTS
    file.write_bytes(file.read_bytes()[:500])
    return place


def refused(arguments, message):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    last = done.output.strip().splitlines()[-1]
    assert message in last, done.output


@pytest.mark.parametrize("fault", BAD)
def test_commands_refuse_it_in_one_line(bad, fault, tiny_model_folder, adapters, tmp_path):
    two = f"dates={bad / fault}", f"numbers={adapters['numbers']}"
    output = "-o", tmp_path / "out"
    refused(["mixture", "new", *two, "--base", tiny_model_folder, *output], BAD[fault].format(bad))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", BAD)
def test_a_recipe_refuses_it_in_one_line(bad, fault, tiny_model_folder, adapters, tmp_path):
    for name, texts in {"dates": UKRAINIAN, "numbers": ENGLISH}.items():
        rows = [json.dumps({"text": f"{text} {index}."}) for index, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    file = tmp_path / "mix.yaml"
    file.write_text(RECIPE.format(folder=tmp_path, base=tiny_model_folder, bad=bad / fault, good=adapters["numbers"]))
    refused(["run", file], BAD[fault].format(bad))


@pytest.mark.parametrize(
    ("router", "message"),
    [
        ("{kind: arrow, k: 5}", "router 'arrow': k is 5, but there are 2 adapters; set k to at most 2"),
        (
            "{kind: enforced, default: places}",
            "router 'enforced': there is no adapter 'places'; the adapters",
        ),
        ("{kind: enforced, tokens: {a: places}}", "router 'enforced': there is no adapter 'places'; the adapters are"),
    ],
)
def test_a_router_that_asks_for_what_there_is_not_is_refused(router, message, tiny_model_folder, adapters, tmp_path):
    two = [f"{name}={adapters[name]}" for name in ("dates", "numbers")]
    more = "--router", router, "-o", tmp_path / "out"
    refused(["mixture", "new", *two, "--base", tiny_model_folder, *more], message)
