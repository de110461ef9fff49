"""What vLLM asks of a folder, as far as it can be told without it.

It makes the class that `architectures` names, reads every tensor of the safetensors by its name, and stops at one that
it does not know and at a parameter that got none; embedding and head are one where the configuration says so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from adapt.export.bases import original
from adapt.methods.lora import Lora
from merge.checkpoint import INDEX, Checkpoint
from merge.engine import write
from tests.conftest import ENGLISH
from tests.export.conftest import source
from tests.training.workshop import finished, make_run


def meta_model(folder: Path):
    """The architecture that the configuration names, with shapes and no values."""
    config = AutoConfig.from_pretrained(folder)
    (name,) = config.architectures
    assert getattr(transformers, name)._supports_attention_backend  # what vLLM's own fallback for a class asks
    with torch.device("meta"):
        return getattr(transformers, name)(config)


def assert_loadable(folder: Path, tied: bool) -> None:
    settings = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in settings
    assert settings["tie_word_embeddings"] is tied
    written, model = Checkpoint("written", folder), meta_model(folder)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if tied:
        del expected["lm_head.weight"]
    assert {name: info.shape for name, info in written.tensors.items()} == expected
    types = {str(info.dtype).removeprefix("torch.") for info in written.tensors.values()}
    assert types == {settings.get("dtype") or settings["torch_dtype"]}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert settings["vocab_size"] == expected["model.embed_tokens.weight"][0] >= len(tokenizer)
    assert max(tokenizer("\n".join(ENGLISH))["input_ids"]) < settings["vocab_size"]
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    assert not files & {"adapter_config.json", "adapter_model.safetensors"}  # the folder would be read as an adapter
    if len(list(folder.glob("*.safetensors"))) > 1:
        index = json.loads((folder / INDEX).read_text())
        assert index["weight_map"].keys() == expected.keys()
        assert index["metadata"]["total_size"] == sum(info.size for info in written.tensors.values())


@pytest.mark.parametrize("name", ["lora", "rslora-dora", "qlora", "pissa"])
def test_what_a_train_stage_and_an_export_write(name, stages, tmp_path):
    assert_loadable(stages[name] / "model", tied=True)
    write(original(source(stages[name]), "bfloat16"), tmp_path / "out", shard_size=60_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
    if not (tmp_path / "out" / "generation_config.json").exists():  # the export stage copies it
        GenerationConfig().save_pretrained(tmp_path / "out")
    assert_loadable(tmp_path / "out", tied=True)


def test_a_head_of_its_own_and_the_ids_at_which_an_answer_ends(tiny_model_folder, tmp_path):
    method = Lora(r=2)
    run = make_run(tiny_model_folder, tmp_path, method, steps=2)
    run.execute()
    end = run.tokenizer.convert_tokens_to_ids("<|end|>")
    method.save(finished(run, tiny_model_folder, stops=(end, 0)), tmp_path)
    assert_loadable(tmp_path / "model", tied=False)
    generation = GenerationConfig.from_pretrained(tmp_path / "model")
    assert generation.eos_token_id == [end, 0]
