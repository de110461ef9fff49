"""Sums: against mergekit, identities, precision, shards, and what the inspection finds in planted vectors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merge.checkpoint import Checkpoint
from merge.device import BLOCKS
from merge.engine import write
from merge.formula import Difference, Leaf, Linear
from merge.inspect import inspect, place_of
from merge.operands import Inputs, Operand, Target, operand
from merge.parameters import Place
from merge.planning import prepare
from tests.conftest import CHAT_TEMPLATE, make_model
from tests.merge.family import EMBED, HEAD, nudge, plain_tokenizer, save
from tests.merge.test_row_matching import SIZE, SPECIAL, merged

BODY = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three relatives with one vocabulary, in float32 and in bfloat16."""
    root = tmp_path_factory.mktemp("three")
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        key = str(dtype).removeprefix("torch.")
        models = {"base": make_model(SIZE), "a": nudge(make_model(SIZE), 1), "b": nudge(make_model(SIZE), 2)}
        found[key] = {
            name: save(root / key / name, model.to(dtype), plain_tokenizer(CHAT_TEMPLATE if name == "a" else None))
            for name, model in models.items()
        }
    return found


def weights(folder):
    return load_file(folder / "model.safetensors")


def mergekit(folders, output, configuration):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    text = yaml.safe_dump(configuration)
    for name, folder in folders.items():
        text = text.replace(f"@{name}", str(folder))
    settings = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(settings, str(output), MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))
    files = sorted(output.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_task_arithmetic_is_mergekits(three, tmp_path, dtype):
    folders = three[dtype]
    ours, _ = merged(folders, "base + 0.7 * (a - base) + 0.4 * (b - base)", tmp_path / "ours", special_from="base")
    theirs = mergekit(
        folders,
        tmp_path / "theirs",
        {
            "merge_method": "task_arithmetic",
            "base_model": "@base",
            "dtype": "float32",
            "out_dtype": dtype,
            "models": [
                {"model": "@a", "parameters": {"weight": 0.7}},
                {"model": "@b", "parameters": {"weight": 0.4}},
            ],
        },
    )
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        rows = slice(SPECIAL, None) if name in (EMBED, HEAD) else slice(None)
        limit = 4e-7 if dtype == "float32" else 2**-8 * tensor.abs().max().item()
        assert ours[name].dtype == tensor.dtype
        assert (ours[name][rows] - tensor[rows]).abs().max().item() <= limit


def test_an_average_is_mergekits_linear(three, tmp_path):
    folders = three["float32"]
    ours, _ = merged(folders, "0.25 * a + 0.75 * b", tmp_path / "ours")
    models = [{"model": f"@{name}", "parameters": {"weight": weight}} for name, weight in (("a", 0.25), ("b", 0.75))]
    theirs = mergekit(folders, tmp_path / "theirs", {"merge_method": "linear", "dtype": "float32", "models": models})
    assert all(torch.allclose(ours[name], tensor, atol=2e-7, rtol=0) for name, tensor in theirs.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("expression", "equal"),
    [
        ("a + 0 * (b - base)", "a"),
        ("base + (a - base)", "a"),
        ("same + 1.0 * (a - base)", "a"),
        ("a + 0.8 * (b - twin)", "a"),
        ("0.5 * a + 0.5 * copy", "a"),
        ("a", "a"),
    ],
)
def test_identities_hold_bit_for_bit(three, tmp_path, dtype, expression, equal):
    folders = three[dtype] | {"same": three[dtype]["base"], "twin": three[dtype]["b"], "copy": three[dtype]["a"]}
    result, _ = merged(folders, expression, tmp_path / "out", special_from="a" if "b" in expression else None)
    expected = weights(folders[equal])
    assert set(result) == set(expected)
    assert all(torch.equal(result[name], tensor) for name, tensor in expected.items())


def test_the_sum_is_rounded_once(three, tmp_path):
    folders = three["bfloat16"]
    result, _ = merged(folders, "a + 0.3 * (b - base)", tmp_path / "out", special_from="a")
    a, b, base = (weights(folders[name]) for name in ("a", "b", "base"))
    exact = (a[BODY].double() + 0.3 * (b[BODY].double() - base[BODY].double())).bfloat16()
    in_steps = a[BODY] + 0.3 * (b[BODY] - base[BODY])
    assert (result[BODY] != exact).float().mean() < 1e-3
    assert (in_steps != exact).float().mean() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_output_has_the_type_that_was_asked_for(three, tmp_path, dtype):
    result, _ = merged(three["bfloat16"], "a + 0.3 * (b - base)", tmp_path / "out", dtype=dtype)
    assert {tensor.dtype for tensor in result.values()} == {dtype}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == dtype


@dataclass
class Given(Operand):
    """A vector in memory as an operand."""

    target: Target
    vector: torch.Tensor

    def rows(self, first: int, last: int) -> torch.Tensor:
        return self.vector.clone().unsqueeze(0)


def linear_sum(parts: dict[str, torch.Tensor], *differences: tuple[float, str, str]) -> torch.Tensor:
    """`start + sum_i w_i (a_i - b_i)` by the operand that the engine uses."""
    target = Target("x", 1, len(parts["start"]), Place("x"))
    special = {name: lambda target, inputs, v=vector: Given(target, v) for name, vector in parts.items()}
    terms = tuple(Difference(weight, Leaf(a), Leaf(b)) for weight, a, b in differences)
    return operand(Linear(Leaf("start"), terms), target, Inputs({}, {}, {}, special=special)).rows(0, 1)[0]


floats = arrays("float32", 7, elements=st.floats(-4, 4, width=32))


@settings(max_examples=50, deadline=None)
@given(floats, floats, floats, st.floats(-2, 2))
def test_task_arithmetic_against_its_formula(start, a, b, weight):
    start, a, b = (torch.from_numpy(part) for part in (start, a, b))
    expected = start.double() + weight * (a.double() - b.double())
    parts = {"start": start, "a": a, "b": b}
    assert torch.allclose(linear_sum(parts, (weight, "a", "b")).double(), expected, atol=1e-5)
    assert torch.equal(linear_sum(parts, (weight, "a", "a")), start)
    assert torch.equal(linear_sum(parts), start)
    two = [(weight, "a", "b"), (0.5, "b", "start")]
    assert torch.allclose(linear_sum(parts, *two), linear_sum(parts, *two[::-1]), atol=1e-5)


def test_shards_change_nothing(three, tmp_path):
    folders = three["float32"]
    expression = "a + 0.3 * (b - base)"
    single, _ = merged(folders, expression, tmp_path / "single")
    sharded, _ = merged(folders, expression, tmp_path / "sharded", shard_size=60_000)
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    assert set(single) == set(sharded)
    assert all(torch.equal(single[name], sharded[name]) for name in single)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded")
    assert torch.equal(model.state_dict()[BODY], single[BODY])
    again, _ = merged(folders | {"a": tmp_path / "sharded"}, "a", tmp_path / "again")
    assert all(torch.equal(single[name], again[name]) for name in single)


def test_what_is_written_is_what_safetensors_writes(three, tmp_path):
    result, _ = merged(three["bfloat16"], "a", tmp_path / "out")
    save_file(result, tmp_path / "reference.safetensors", metadata={"format": "pt"})
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert abs(size - (tmp_path / "reference.safetensors").stat().st_size) < 64
    assert int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_large_tensors_are_summed_in_blocks(three, tmp_path, monkeypatch):
    whole, _ = merged(three["float32"], "a + 0.3 * (b - base)", tmp_path / "whole")
    monkeypatch.setitem(BLOCKS, "cpu", 100)
    blocks, _ = merged(three["float32"], "a + 0.3 * (b - base)", tmp_path / "blocks")
    assert all(torch.equal(whole[name], blocks[name]) for name in whole)


def planted(three, tmp_path, scales, special=0.0):
    """Models that differ from the base by multiples of one random vector; the last one moves special rows."""
    base = weights(three["float32"]["base"])
    generator = torch.Generator().manual_seed(0)
    vector = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    folders = {"base": three["float32"]["base"]}
    for name, scale in scales.items():
        folder = folders[name] = tmp_path / name
        shutil.copytree(three["float32"]["base"], folder)
        moved = {key: tensor + scale * 1e-3 * vector[key] for key, tensor in base.items()}
        if special and name == "cpt":
            moved[EMBED][2] += special * base[EMBED][2]
        save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folders, base, vector


@pytest.mark.parametrize(("scale", "cosine", "conflict"), [(2.0, 1.0, 0.0), (-3.0, -1.0, 1.0)])
def test_inspection_finds_planted_vectors(three, tmp_path, scale, cosine, conflict):
    folders, base, vector = planted(three, tmp_path, {"cpt": 1.0, "instruct": scale})
    report = inspect(prepare("cpt + 1.0 * (instruct - base)", folders))
    pair = report["cosines"]["cpt - base | instruct - base"]
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-4)
    assert pair["sign_conflict"] == pytest.approx(conflict, abs=1e-3)
    assert [entry["layer"] for entry in pair["per_layer"]] == [0, 1]
    expected = abs(scale) * 1e-3 * vector[BODY].norm() / base[BODY].norm()
    found = report["vectors"]["instruct - base"]
    layers = [
        1e-3
        * abs(scale)
        * sum(vector[n].square().sum() for n in base if f"layers.{layer}." in n) ** 0.5
        / sum(base[n].square().sum() for n in base if f"layers.{layer}." in n) ** 0.5
        for layer in (0, 1)
    ]
    assert [entry["relative_norm"] for entry in found["per_layer"]] == pytest.approx(
        [float(n) for n in layers], rel=1e-3
    )
    assert found["per_kind"]["up_proj"] == pytest.approx(float(expected), rel=0.05)
    assert any("not independent" in warning for warning in report["warnings"])


def test_inspection_warns_of_large_vectors_and_moved_special_rows(three, tmp_path):
    folders, _, _ = planted(three, tmp_path, {"cpt": 12.0, "instruct": 0.1}, special=3.0)
    report = inspect(prepare("cpt + 1.0 * (instruct - base)", folders, special_from="instruct"))
    large, close, moved = report["warnings"]
    assert "the task vector cpt - base has 0." in large
    assert "not independent" in close
    assert "'cpt' moved" in moved
    assert "they are taken from 'instruct'" in moved
    row = max(
        (row for row in report["row_drift"] if row["model"] == "cpt" and row["special"]), key=lambda r: r["drift"]
    )
    assert (row["matrix"], row["token"]) == (EMBED, "<|user|>")
    quiet, _, _ = planted(three, tmp_path / "quiet", {"cpt": 0.1, "instruct": 0.1})
    assert not any("moved" in text for text in inspect(prepare("cpt + 1 * (instruct - base)", quiet))["warnings"])


def test_inspection_of_other_combinations(three):
    assert inspect(prepare("a", three["float32"]))["vectors"] == {}
    assert list(inspect(prepare("0.5 * a + 0.5 * b", three["float32"]))["vectors"]) == ["b - a"]
    assert list(inspect(prepare("base + (a - base)", three["float32"]))["vectors"]) == ["a - base"]
    assert list(inspect(prepare("base + 0.5 * (a - base)", three["float32"]))["vectors"]) == ["a - base"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (BODY, (1, "up_proj")),
        (EMBED, (None, "embed_tokens")),
        ("transformer.h.11.attn.c_attn.bias", (11, "c_attn")),
        ("model.norm.weight", (None, "norm")),
    ],
)
def test_place_of(name, place):
    assert place_of(name) == place


def test_a_checkpoint_reads_lazily(three):
    checkpoint = Checkpoint("a", three["bfloat16"]["a"])
    assert checkpoint.tensor(BODY).dtype == torch.bfloat16
    assert checkpoint.tensors[BODY].shape == (128, 64)
    assert checkpoint.height == SIZE


def test_write_reports_progress(three, tmp_path):
    seen = []
    write(prepare("a", three["float32"]), tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
