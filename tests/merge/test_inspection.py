"""Inspection: energy and kinds, adapters and calls, memory and threads, the command, the picture, warnings."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from merge.commands.app import app
from merge.errors import MergeError
from merge.inspect import CLOSE_VECTORS, LARGE_VECTOR, inspect
from merge.inspection_plots import draw
from merge.kinds import kind_of
from merge.planning import prepare
from merge.task_vectors import extract
from merge.vector_sums import Sums, sums_by_tensor
from tests.conftest import CHAT_TEMPLATE, make_model
from tests.merge.family import EMBED, HEAD, make_family, plain_tokenizer, save

SIZE = 384


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family")).folders


def planted(root, vectors):
    """A base and models `base + v`; `vectors[name](tensor_name, base)` gives the difference of a tensor."""
    base = make_model(SIZE)
    folders = {"base": save(root / "base", base, plain_tokenizer(CHAT_TEMPLATE))}
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for model, vector in vectors.items():
        base.load_state_dict({name: tensor + vector(name, tensor) for name, tensor in weights.items()})
        folders[model] = save(root / model, base, plain_tokenizer(CHAT_TEMPLATE))
    return folders, weights


def scaled(size, kinds=("embeddings", "attention", "mlp", "norms")):
    """A vector of `size` times the weights, with every second element's sign turned, so that it is no mere scaling."""

    def vector(name, tensor):
        signs = torch.ones(tensor.numel())
        signs[::2] = -1
        return size * tensor * signs.view(tensor.shape) if kind_of(name) in kinds else torch.zeros_like(tensor)

    return vector


def inspected(folders, expression):
    return inspect(prepare(expression, folders))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 200), st.floats(0, 1))
def test_sums_are_those_of_whole_tensors(seed, count, share):
    generator = torch.Generator().manual_seed(seed)
    base, a, b = torch.randn(3, count, generator=generator)
    for vector in (a, b):
        vector[torch.rand(count, generator=generator) < share] = 0
    sums, half = Sums(), Sums()
    cut = count // 2
    sums.add_block(base[:cut], {"a": a[:cut], "b": b[:cut]})
    half.add_block(base[cut:], {"a": a[cut:], "b": b[cut:]})
    sums.add(half)
    norms = a.double().norm() * b.double().norm()
    cosine = float(a.double() @ b.double() / norms) if norms else 0.0
    assert sums.cosine("a", "b") == pytest.approx(cosine, abs=1e-5)
    assert sums.relative_norm("a") == pytest.approx(float(a.norm() / base.norm()), rel=1e-5)
    moved = (a != 0) & (b != 0)
    against = moved & (a.sign() != b.sign())
    assert sums.conflict("a", "b") == pytest.approx(float(against.sum() / moved.sum().clamp(min=1)))


def test_energy_by_layer_and_module(tmp_path):
    folders, weights = planted(tmp_path, {"a": scaled(0.1, ("mlp",)), "b": scaled(0.05)})
    report = inspected(folders, "a + 1 * (b - base)")
    a, b = report["vectors"]["a - base"], report["vectors"]["b - base"]
    assert a["modules"]["mlp"] == pytest.approx({"relative_norm": 0.1, "energy": 1.0}, rel=1e-4)
    assert a["modules"]["attention"]["energy"] == 0
    assert list(b["modules"]) == ["embeddings", "attention", "mlp", "norms"]
    assert sum(part["energy"] for part in b["modules"].values()) == pytest.approx(1)
    special = 6
    body = {name: t[special:] if name in (EMBED, HEAD) else t for name, t in weights.items()}
    total = sum(t.square().sum() for t in body.values())
    for layer in (0, 1):
        own = sum(t.square().sum() for name, t in body.items() if f"layers.{layer}." in name)
        assert b["per_layer"][layer]["energy"] == pytest.approx(float(own / total), rel=1e-4)
    pair = report["cosines"]["a - base | b - base"]
    assert pair["modules"]["mlp"] == pytest.approx({"cosine": 1.0, "sign_conflict": 0.0}, abs=1e-4)
    assert pair["modules"]["attention"]["cosine"] == 0


@pytest.mark.parametrize(("size", "warned"), [(0.99 * LARGE_VECTOR, False), (1.01 * LARGE_VECTOR, True)])
def test_the_threshold_of_large_vectors(tmp_path, size, warned):
    folders, _ = planted(tmp_path, {"a": scaled(size)})
    report = inspected(folders, "base + 0.5 * (a - base)")
    assert report["vectors"]["a - base"]["relative_norm"] == pytest.approx(size, rel=1e-3)
    assert any("of the norm of the weights" in text for text in report["warnings"]) == warned


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("cosine", "warned"), [(0.95 * CLOSE_VECTORS, False), (1.05 * CLOSE_VECTORS, True)])
def test_the_threshold_of_close_vectors(tmp_path, sign, cosine, warned):
    """b = c a + sqrt(1 - c^2) (what stands at a right angle to a: pairs of elements exchanged, one turned)."""

    def a(name, tensor):
        return 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))

    def b(name, tensor):
        along = a(name, tensor)
        across = along.reshape(-1, 2).flip(1) * torch.tensor([1.0, -1.0])
        return sign * cosine * along + (1 - cosine**2) ** 0.5 * across.view(tensor.shape)

    folders, _ = planted(tmp_path, {"a": a, "b": b})
    report = inspected(folders, "a + 1 * (b - base)")
    assert report["cosines"]["a - base | b - base"]["cosine"] == pytest.approx(sign * cosine, abs=2e-3)
    assert any("not independent" in text for text in report["warnings"]) == warned


def test_the_same_numbers_for_any_number_of_threads(family):
    merge = prepare("cpt + 1.0 * (instruct - base)", family)
    assert inspect(merge, 1) == inspect(merge, 3)
    assert set(sums_by_tensor(merge, "base", ["cpt", "instruct"])) == set(
        load_file(family["base"] / "model.safetensors")
    )


def test_rows_are_compared_by_token(family):
    """`cpt` has 20 tokens more and `chatml` two: only the shared ordinary ones count."""
    merge = prepare("cpt + 1.0 * (chatml - base)", family)
    base, cpt = (load_file(family[name] / "model.safetensors")[EMBED][6:SIZE] for name in ("base", "cpt"))
    sums = sums_by_tensor(merge, "base", ["cpt", "chatml"])[EMBED]
    assert sums.relative_norm("cpt") == pytest.approx(float((cpt - base).norm() / base.norm()), rel=1e-5)


def test_calls_saved_vectors_and_adapters(family, tmp_path):
    plain = inspected(family, "cpt + 1.0 * (instruct - base)")
    call = inspected(family, "ties(base, [cpt: 1, instruct: 0.5], density=0.5)")
    assert call["cosines"] == plain["cosines"]
    extract("instruct - base", family, tmp_path / "residual")
    saved = inspected(family | {"residual": tmp_path / "residual"}, "cpt + 0.3 * (base - cpt) + 0.8 * residual")
    assert saved["vectors"]["residual"]["relative_norm"] > 0
    assert set(saved["vectors"]) == {"base - cpt", "residual"}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    left, right = torch.randn(64, 2), torch.randn(2, 64)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{prefix}.lora_A.weight": right, f"{prefix}.lora_B.weight": left}, adapter / "adapter_model.safetensors"
    )
    found = inspected(family | {"lora": adapter}, "base + 0.7 * lora")["vectors"]["lora"]
    weight = load_file(family["base"] / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    other = load_file(family["base"] / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    size = torch.cat([weight, other]).norm()
    assert found["per_kind"]["q_proj"] == pytest.approx(float(2 * (left @ right).norm() / size), rel=1e-4)
    assert found["modules"]["mlp"]["energy"] == 0


def test_nan_is_an_error(family, tmp_path):
    tensors = load_file(family["instruct"] / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    broken = save(tmp_path / "broken", make_model(SIZE), plain_tokenizer())
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeError) as error:
        inspected(family | {"broken": broken}, "cpt + 1 * (broken - base)")
    assert str(error.value) == "'model.layers.1.mlp.up_proj.weight' holds NaN or infinity in 'broken'"


def invoke(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_the_command(family, tmp_path):
    places = [f"{name}={family[name]}" for name in ("cpt", "instruct", "base")]
    result = invoke(*places, "-o", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "cpt - base" in result.output
    assert "attention %" in result.output
    assert "warning: 'cpt' moved 6 special rows" in result.output
    assert (tmp_path / "report" / "inspection.png").read_bytes()[:4] == b"\x89PNG"
    saved = json.loads((tmp_path / "report" / "inspection.json").read_text())
    assert saved == inspected(family, "base + (cpt - base) + (instruct - base)")
    printed = invoke("cpt + 0.3 * (instruct - base)", *places, "--json")
    assert json.loads(printed.stdout)["vectors"] == saved["vectors"]
    turned = invoke(f"one={family['base']}", f"two={family['cpt']}", "--base", "two", "--json")
    assert list(json.loads(turned.stdout)["vectors"]) == ["one - two"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["a=x", "b=y"],
            "no model is named 'base' (there are a, b); say which model the others began from: --base NAME",
        ),
        (["a=x", "b=y", "--base", "c"], "no model is named 'c' (there are a, b)"),
        (["base=x"], "only 'base' is given; name a model that was trained from it too: NAME=FOLDER"),
        (["base=x", "a=nowhere"], "'nowhere' is no folder"),
        (["a - b", "--base", "b"], "--base b is for models without an expression; 'a - b' says its differences itself"),
        (["a +"], "'a +', character 4: expected a model, a number or '(', found the end"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (1, message + "\n")


def test_nothing_to_inspect_and_nowhere_to_write(family, tmp_path):
    result = invoke("cpt", f"cpt={family['cpt']}")
    assert result.stderr == "'cpt' adds no task vector, so there is nothing to inspect\n"
    (tmp_path / "file").write_text("")
    result = invoke(f"cpt={family['cpt']}", f"base={family['base']}", "-o", tmp_path / "file")
    assert result.stderr == f"cannot write to '{tmp_path / 'file'}': File exists\n"


def test_a_picture_of_one_vector_and_of_three(family, tmp_path):
    for expression in ("base + 1 * (instruct - base)", "base + (instruct - base) + (cpt - base) + (chatml - base)"):
        draw(inspected(family, expression), tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 10_000
