"""The sums that an adapter becomes, streamed from disk: each is its formula, and nothing of an adapter is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.export import bases
from adapt.export.candidates import quantised_names
from adapt.export.nf4 import dequantised
from adapt.methods.adapter import ROWS_FILE
from adapt.methods.base import plain_model
from adapt.methods.export import low_rank, magnitude_form
from adapt.methods.live_base import dequantised_weights
from adapt.methods.qlora import Qlora
from adapt.training.precision import Precision
from merge.engine import write
from merge.errors import MergeError
from tests.export.conftest import NEW, source

CPU = torch.device("cpu")


def weights(merge, folder: Path, **settings) -> dict[str, torch.Tensor]:
    write(merge, folder, **settings)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("name", ["lora", "rslora-dora", "qlora", "qlora-dora", "pissa"])
def test_the_streamed_sum_is_the_model_that_the_train_stage_wrote(name, stages, tmp_path):
    found = weights(bases.original(source(stages[name]), None), tmp_path / "out")
    expected = load_file(stages[name] / "model" / "model.safetensors")
    assert found.keys() == expected.keys()
    for tensor, value in expected.items():
        assert torch.allclose(found[tensor], value, rtol=1e-6, atol=1e-7), tensor


def test_rows_are_put_in_bit_for_bit_and_no_other_row_moves(stages, grown, tmp_path):
    name = "model.embed_tokens.weight"
    saved = load_file(stages["qlora"] / "adapter" / ROWS_FILE)
    base = load_file(grown / "model.safetensors")[name]
    found = weights(bases.dequantised(source(stages["qlora"]), None, ()), tmp_path / "out")[name]
    ids = saved["ids"]
    assert torch.equal(found[ids], saved[name])
    others = torch.ones(len(base), dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(found[others], base[others])
    assert not torch.equal(found[ids[:NEW]], base[ids[:NEW]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_at_a_time_gives_the_4_bit_weights_of_the_live_model(dtype, grown):
    live = dequantised_weights(Qlora().load(ModelLocation(str(grown)), Precision(CPU, dtype == torch.bfloat16)))
    stored = load_file(grown / "model.safetensors")
    assert len(live) == 14
    for name, value in live.items():
        assert torch.equal(dequantised(stored[name], dtype, CPU), value())


@pytest.mark.parametrize("name", ["qlora", "qlora-dora"])
def test_the_dequantised_base_is_what_trained(name, stages, tmp_path):
    """`Q(W) + s B A`, with DoRA `m (Q(W) + s B A) / |Q(W) + s B A|`, by the formula written out for one layer."""
    found = source(stages[name])
    names = quantised_names(found.live())
    written = weights(bases.dequantised(found, None, names), tmp_path / "out")
    parts = load_file(stages[name] / "adapter" / "adapter_model.safetensors")
    stored = load_file(found.base / "model.safetensors")
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        part = {key.rpartition(f"{module}.")[2]: value for key, value in parts.items() if module in key}
        weight = dequantised(stored[f"{module}.weight"], torch.float32, CPU)
        weight = weight + low_rank(part["lora_B.weight"], part["lora_A.weight"], 2.0)
        if "lora_magnitude_vector" in part:
            weight = magnitude_form(weight, part["lora_magnitude_vector"])
        assert torch.allclose(written[f"{module}.weight"], weight, rtol=1e-6, atol=1e-7)


def test_live_is_the_quantised_base_with_the_adapter_on_it(stages):
    live = source(stages["qlora"]).live()
    assert len(quantised_names(live)) == 14
    assert any("lora_A" in name for name, _ in live.named_parameters())
    rows = load_file(stages["qlora"] / "adapter" / ROWS_FILE)
    embedding = plain_model(live).get_input_embeddings().weight
    assert torch.equal(embedding[rows["ids"]], rows["model.embed_tokens.weight"])


def test_shards_and_format_do_not_change_the_values(stages, tmp_path):
    found = source(stages["lora"])
    one = weights(bases.original(found, "bfloat16"), tmp_path / "one")
    many = weights(bases.original(found, "bfloat16"), tmp_path / "many", shard_size=40_000, threads=2)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert all(value.dtype == torch.bfloat16 and torch.equal(value, many[name]) for name, value in one.items())


def copied(stage: Path, folder: Path, file: str, change) -> Path:
    import shutil

    shutil.copytree(stage, folder)
    tensors = load_file(folder / "adapter" / file)
    change(tensors)
    save_file(tensors, folder / "adapter" / file)
    return folder


def test_rows_that_nothing_takes_up_are_refused(stages, tmp_path):
    def rename(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    folder = copied(stages["qlora"], tmp_path / "stage", ROWS_FILE, rename)
    with pytest.raises(AdaptError, match=r"holds rows up to .* of 'lm_head.weight', which is not there in the base"):
        bases.original(source(folder), None)


def test_a_factor_that_nothing_takes_up_is_refused(stages, tmp_path):
    def add(tensors):
        for part, shape in (("A", (4, 64)), ("B", (64, 4))):
            tensors[f"base_model.model.model.layers.7.self_attn.q_proj.lora_{part}.weight"] = torch.zeros(shape)

    folder = copied(stages["lora"], tmp_path / "stage", "adapter_model.safetensors", add)
    with pytest.raises(MergeError, match=r"changes 'model.layers.7.self_attn.q_proj.weight', which 'base' does not"):
        bases.original(source(folder), None)


def test_a_base_that_is_gone_is_named(stages, tmp_path):
    import json
    import shutil

    folder = tmp_path / "stage"
    shutil.copytree(stages["lora"], folder)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "nowhere/at-all"
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdaptError, match="the base of the adapter of 'cpt' is not here: cannot get the model 'nowhere"):
        source(folder)
