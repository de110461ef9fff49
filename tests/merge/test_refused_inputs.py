"""Every doubt about inputs, expression and options is one line, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from merge.checkpoint import INDEX
from tests.conftest import make_model
from tests.merge.family import plain_tokenizer, save
from tests.merge.reliability import SUM, files, places, relatives, run
from tests.merge.test_merge_failures import NORM, change, configure, shard


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return relatives(tmp_path_factory)


def stranger(folder):
    model = make_model(384, seed=99)
    shutil.rmtree(folder)
    save(folder, model, plain_tokenizer())


def text(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")


def edited(folder, name, edit):
    path = folder / name
    path.write_text(json.dumps(edit(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def header(folder, edit):
    """Replace the header of the safetensors file."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    new = json.dumps(edit(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])


def duplicated(document):
    document["added_tokens"].append(document["added_tokens"][0] | {"content": "<|twice|>"})
    return document


SECOND = "model-00002-of-00002.safetensors"
BROKEN = {
    "cut short": (lambda f: os.truncate(f / "model.safetensors", 100_000), "is cut short or broken"),
    "empty file": (lambda f: os.truncate(f / "model.safetensors", 0), "is cut short or broken"),
    "overlap": (
        lambda f: header(f, lambda h: h | {NORM: h[NORM] | {"data_offsets": [0, 256]}}),
        "is cut short or broken",
    ),
    "fp8": (
        lambda f: header(f, lambda h: h | {NORM: h[NORM] | {"dtype": "F8_E4M3", "shape": [256]}}),
        "as F8_E4M3, which cannot be added or subtracted",
    ),
    "missing shard": (
        lambda f: shard(f, {SECOND: "model-9.safetensors"}),
        "names 'model-9.safetensors', which is",
    ),
    "wrong index": (lambda f: shard(f, {SECOND: "model-00001-of-00002.safetensors"}), "holds '.*', but it does not"),
    "outside": (lambda f: shard(f, {SECOND: "../base/model.safetensors"}), "which is not in its folder"),
    "absolute": (lambda f: shard(f, {SECOND: "/etc/passwd"}), "names the shard '/etc/passwd', which is not in its"),
    "index without a map": (
        lambda f: (shard(f, {}), text(f, INDEX, "{}")),
        "model.safetensors.index.json' has no weight_map",
    ),
    "index that is no map": (
        lambda f: (shard(f, {}), text(f, INDEX, '{"weight_map": ["a"]}')),
        "model.safetensors.index.json' has no weight_map",
    ),
    "no tensors": (lambda f: (shard(f, {}), text(f, INDEX, '{"weight_map": {}}')), "has no tensor|0 input embeddings"),
    "missing tensor": (lambda f: change(f, **{NORM: None}), f"'broken' has no tensor '{NORM}', which 'cpt' has"),
    "shape": (lambda f: change(f, **{NORM: torch.ones(32)}), r"has shape \[64\] in 'cpt' and \[32\] in 'broken'"),
    "nan": (
        lambda f: change(f, **{NORM: torch.full((64,), float("nan"))}),
        f"'broken' holds NaN or infinity in '{NORM}'",
    ),
    "infinity": (lambda f: change(f, **{NORM: torch.full((64,), -float("inf"))}), "'broken' holds NaN or infinity in"),
    "architecture": (lambda f: configure(f, model_type="qwen2"), "model_type is 'llama' and 'qwen2'"),
    "config no object": (lambda f: text(f, "config.json", "[]"), "config.json"),
    "config broken": (lambda f: text(f, "config.json", "{"), "cannot read '.*config.json'"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read '.*config.json'"),
    "tokenizer broken": (lambda f: text(f, "tokenizer.json", '{"model"'), "cannot read '.*tokenizer.json'"),
    "tokenizer empty": (lambda f: text(f, "tokenizer.json", "{}"), "is no tokenizer"),
    "tokenizer of another kind": (lambda f: text(f, "tokenizer.json", '{"model": {"vocab": 3}}'), "is no tokenizer"),
    "stranger": (stranger, "'base' and 'broken' are no relatives: on a sample, the cosine of their weights is -?0.0"),
    "gone": (shutil.rmtree, "is no folder"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("expression", [SUM.replace("instruct", "broken"), "ties(base, [cpt, broken], density=0.5)"])
def test_a_broken_input(family, tmp_path, kind, expression):
    damage, message = BROKEN[kind]
    broken = tmp_path / "broken"
    shutil.copytree(family.folders["instruct"], broken)
    damage(broken)
    models = [*places(family, "cpt", "base"), f"broken={broken}"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, errors = run(expression, *models, "-o", tmp_path / "out")
    assert code == 1
    assert len(errors.splitlines()) == 1, errors
    assert re.search(message, errors), errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "ties(base, [cpt, instruct], densty=0.3)",
            "character 29: ties has no parameter 'densty'; did you mean 'density'?",
        ),
        ("tise(base, [cpt, instruct])", "character 1: there is no method 'tise'; did you mean 'ties'?"),
        ("cpt + 0.5 * (instruct - base", "character 29: "),
        ("cpt + 0.5 * (instrct - base)", "does not name 'instruct' (it names cpt, instrct, base)"),
        ("cpt + instruct + 0 * base", "sum to 2, not to 1"),
        ("cpt + 0.5 * (base - base)", "is given, but the expression does not name 'instruct'"),
    ],
)
def test_a_mistake_in_the_expression(family, tmp_path, expression, message):
    code, errors = run(expression, *places(family, "cpt", "instruct", "base"), "-o", tmp_path / "out")
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard-size", "many"], "'many' is no size; write for example 5GB or 500MB"),
        (["--vocabulary-from", "bas"], "vocabulary_from is 'bas', which"),
        (["cpt=elsewhere"], "'cpt' is given twice"),
        (["extra=somewhere"], "'extra=somewhere' is given, but the expression does not name 'extra'"),
        (["somewhere"], "'somewhere' is not of the form NAME=FOLDER"),
    ],
)
def test_a_mistake_in_the_options(family, tmp_path, options, message):
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), *options, "-o", tmp_path / "out")
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert message in errors


def test_a_stale_folder_is_left_alone(family, tmp_path):
    text(tmp_path, "model.safetensors", "stale")
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", tmp_path)
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "is not empty; give a new folder, so that no stale file stays beside the result" in errors
    assert files(tmp_path) == {"model.safetensors": b"stale"}


def test_strangers_can_be_merged_on_request(family, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    stranger(folder)
    models = [*places(family, "cpt", "base"), f"other={folder}"]
    arguments = ["cpt + 0.5 * (other - base)", *models, "-o", tmp_path / "out"]
    assert run(*arguments)[0] == 1
    assert run(*arguments, "--unrelated") == (0, "")


def test_the_same_index_for_different_tokens_is_told(family, tmp_path):
    """`chatml` and `cpt` hold different tokens under two ids: matched by token, counted, never mixed."""
    out = tmp_path / "out"
    code, _ = run("cpt + 0.5 * (chatml - base)", *places(family, "cpt", "chatml", "base"), "-o", out)
    assert code == 0
    record = json.loads((out / "merge.json").read_text())
    assert (record["rows"]["appended"], record["rows"]["anchor_only"]) == (2, 20)
    cpt, found = family["cpt"], load_file(out / "model.safetensors")
    assert torch.equal(found["lm_head.weight"][384:404], cpt["lm_head.weight"][384:404])
