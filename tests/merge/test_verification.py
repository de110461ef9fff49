"""`adapt merge verify`: what changed since a merge was written."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from merge.checkpoint import INDEX
from merge.commands import app
from tests.merge.reliability import relatives, run


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return relatives(tmp_path_factory)


INPUTS = ["cpt", "instruct", "base", "lora"]


@pytest.fixture
def merged(family, tmp_path):
    """A merged folder whose inputs may be changed."""
    for name in INPUTS:
        shutil.copytree(family.folders[name], tmp_path / name)
    models = [f"{name}={tmp_path / name}" for name in INPUTS]
    assert run(
        "cpt + 0.5 * (instruct - base) + 0.5 * lora", *models, "-o", tmp_path / "out", "--shard-size", "100kB"
    ) == (0, "")
    return tmp_path


def verify(folder) -> tuple[int, list[str]]:
    ran = CliRunner().invoke(app, ["verify", str(folder)])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, (ran.stderr if ran.exit_code else ran.stdout).splitlines()


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_what_is_as_it_was(merged):
    code, lines = verify(merged / "out")
    assert code == 0
    assert "21 tensors are as they were written" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == INPUTS
    assert all(line.endswith("is what was merged") for line in lines[1:])


def test_a_flipped_bit_of_the_output(merged):
    path = sorted((merged / "out").glob("*.safetensors"))[-1]
    flip(path)
    (name,) = [k for k, v in json.loads((merged / "out" / INDEX).read_text())["weight_map"].items() if v == path.name][
        -1:
    ]
    code, lines = verify(merged / "out")
    assert (code, len(lines)) == (1, 1)
    assert f"'{name}' has other bytes than when it was written" in lines[0]


@pytest.mark.parametrize("name", ["cpt", "base"])
def test_a_flipped_bit_of_an_input(merged, name):
    flip(merged / name / "model.safetensors")
    code, lines = verify(merged / "out")
    assert code == 1
    assert lines == [f"'{merged / name}' is not the '{name}' that was merged: its weights have changed since"]


def test_an_adapter_that_was_trained_on(merged):
    flip(merged / "lora" / "adapter_model.safetensors")
    code, lines = verify(merged / "out")
    assert code == 1
    assert lines == [f"'{merged / 'lora'}' is not the 'lora' that was merged: its weights have changed since"]


def test_an_input_that_is_gone(merged):
    shutil.rmtree(merged / "base")
    code, lines = verify(merged / "out")
    assert code == 0
    assert lines[3] == f"base: '{merged / 'base'}' is not here, not checked"


def test_an_output_that_is_not_whole(merged):
    path = sorted((merged / "out").glob("*.safetensors"))[0]
    path.unlink()
    code, lines = verify(merged / "out")
    assert (code, len(lines)) == (1, 1)
    assert f"names '{path.name}', which is missing" in lines[0]


def test_a_folder_that_no_merge_wrote(family):
    code, lines = verify(family.folders["base"])
    assert code == 1
    assert lines == [f"'{family.folders['base']}' has no merge.json, so it is no folder that a merge wrote"]
