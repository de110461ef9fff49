"""What goes wrong: one line each, inputs untouched, and no output that is not whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge.checkpoint import Checkpoint
from merge.engine import write
from merge.errors import MergeError
from merge.planning import dtype_of, prepare
from tests.conftest import make_model
from tests.merge.family import EMBED, make_family, plain_tokenizer, save

EXPRESSION = "cpt + 0.5 * (broken - base)"
NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def broken(family, tmp_path) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(family.folders["instruct"], folder)
    return folder


@pytest.fixture
def fails(family, broken, tmp_path):
    """Merge with the broken model and expect one line; nothing may be written."""

    def _fails(message: str):
        with pytest.raises(MergeError, match=message) as error:
            write(prepare(EXPRESSION, family.folders | {"broken": broken}), tmp_path / "out")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))

    return _fails


def change(folder: Path, **changes):
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor(tensors.get(name)) if callable(tensor) else tensor
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def configure(folder: Path, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shard(folder: Path, names: dict[str, str]):
    """Split into two shards, with an index that may be changed."""
    tensors = load_file(folder / "model.safetensors")
    first = dict(list(tensors.items())[:5])
    rest = {name: tensor for name, tensor in tensors.items() if name not in first}
    files = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": rest}
    for name, part in files.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    weight_map = {tensor: names.get(file, file) for file, part in files.items() for tensor in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [NORM, EMBED])
def test_nan_or_infinity_in_an_input(fails, broken, name, bad):
    change(broken, **{name: lambda tensor: tensor.fill_(bad)})
    fails(f"'broken' holds NaN or infinity in '{name}'")


def test_a_missing_and_an_unknown_tensor(fails, broken):
    change(broken, **{NORM: None})
    fails(f"'broken' has no tensor '{NORM}', which 'cpt' has")
    change(broken, **{NORM: torch.ones(64), "model.layers.0.self_attn.q_proj.bias": torch.ones(64)})
    fails(r"'cpt' has no tensor 'model.layers.0.self_attn.q_proj.bias', which 'broken' has")


def test_another_shape(fails, broken):
    change(broken, **{NORM: torch.ones(32)})
    fails(rf"'{NORM}' has shape \[64\] in 'cpt' and \[32\] in 'broken'")


def test_another_architecture(fails, broken):
    configure(broken, num_hidden_layers=3)
    fails("'cpt' and 'broken' are not of one architecture: num_hidden_layers is 2 and 3")


def test_quantised_weights(fails, broken):
    configure(broken, quantization_config={"quant_method": "bitsandbytes"})
    fails("'broken' is quantised")


def test_a_file_that_is_cut_short(fails, broken):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    fails("is cut short or broken")


def test_a_shard_outside_of_the_folder(fails, broken):
    shard(broken, {"model-00002-of-00002.safetensors": "../base/model.safetensors"})
    fails("names the shard '../base/model.safetensors', which is not in its folder")


def test_a_missing_shard(fails, broken):
    shard(broken, {"model-00002-of-00002.safetensors": "model-00003-of-00003.safetensors"})
    fails("names 'model-00003-of-00003.safetensors', which is missing")


def test_an_index_that_does_not_fit(fails, broken):
    shard(broken, {"model-00002-of-00002.safetensors": "model-00001-of-00002.safetensors"})
    fails("says that 'model-00001-of-00002.safetensors' holds '.*', but it does not")


def test_shards_beside_a_single_file(fails, broken):
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {}}))
    fails("one of them is stale")


def test_pickled_weights_only(fails, broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    fails(r"only pickled weights \(pytorch_model.bin\), which are not read")


def test_no_tokenizer_no_config(fails, broken):
    (broken / "tokenizer.json").unlink()
    fails("'broken' has no tokenizer.json")
    (broken / "config.json").write_text("{")
    fails("cannot read '.*config.json'")


def test_a_stop_token_that_no_token_has(fails, broken):
    configure(broken, eos_token_id=9999)
    fails("'broken' names the token id 9999 in its settings")


def test_a_type_that_cannot_hold_the_sum(family, tmp_path):
    huge = save(tmp_path / "huge", make_model(384).to(torch.float32), plain_tokenizer())
    change(huge, **{NORM: torch.full((64,), 1e6)})
    with pytest.raises(MergeError, match=f"'{NORM}' is too large for float16; choose dtype bfloat16 or float32"):
        write(prepare("huge", {"huge": huge}, dtype=torch.float16), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_in_the_way(family, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"stale")
    with pytest.raises(MergeError, match="is not empty"):
        write(prepare("base", family.folders), out)
    assert (out / "model.safetensors").read_bytes() == b"stale"


def test_a_folder_that_is_not_given(family):
    with pytest.raises(MergeError, match="names 'chat', but no folder is given for it"):
        prepare("cpt + (chat - base)", family.folders)


def test_types_by_name():
    assert dtype_of("bfloat16") == torch.bfloat16
    with pytest.raises(MergeError, match="'int8' is no type of weights; use float64, float32, float16, bfloat16"):
        dtype_of("int8")


def test_no_space(family, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("merge.writer.os.fsync", full)
    with pytest.raises(MergeError, match=r"cannot write '.*out': No space left on device"):
        write(prepare("base", family.folders), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_rope_settings_are_said(family, broken):
    configure(broken, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    plan = prepare(EXPRESSION, family.folders | {"broken": broken})
    assert any("rope_parameters of 'broken'" in warning for warning in plan.warnings)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from merge.engine import write
from merge.planning import prepare
folders, out, after = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def progress(done, total):
    if done / total > after:
        os.kill(os.getpid(), signal.SIGKILL)
write(prepare("cpt + 0.5 * (instruct - base)", folders), out, progress=progress)
"""


@pytest.mark.parametrize("after", [0.1, 0.9])
def test_a_kill_leaves_no_output_and_the_next_run_writes_the_same_bytes(family, tmp_path, after):
    folders = {name: str(path) for name, path in family.folders.items()}
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, json.dumps(folders), str(out), str(after)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / ".out.partial"]
    write(prepare("cpt + 0.5 * (instruct - base)", family.folders), out)
    write(prepare("cpt + 0.5 * (instruct - base)", family.folders), tmp_path / "straight")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "straight"]
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "straight" / path.name).read_bytes()


def test_inputs_are_not_touched(family, tmp_path):
    before = {path: os.stat(path).st_mtime_ns for path in family.folders["cpt"].iterdir()}
    write(prepare("cpt + 0.5 * (instruct - base)", family.folders), tmp_path / "out")
    assert {path: os.stat(path).st_mtime_ns for path in family.folders["cpt"].iterdir()} == before
    assert Checkpoint("out", tmp_path / "out").height == 404
