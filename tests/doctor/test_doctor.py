"""What the doctor says is what is there: real calls, real versions, and the exit code."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from typer.testing import CliRunner

from adapt import doctor
from adapt.cli import app
from adapt.doctor import packages
from adapt.methods import METHODS


@pytest.fixture(scope="module")
def found():
    return doctor.examine()


def test_every_method_optimizer_and_format_has_a_line(found):
    kinds = {one.name for one in found if one.part == "methods"}
    assert kinds == {method.model_fields["kind"].default for method in METHODS}
    assert {"adamw", "adamw_8bit", "galore_adamw"} <= {one.name for one in found if one.part == "optimizers"}
    assert {one.name for one in found if one.part == "export"} == {"safetensors", "adapter", "gguf"}
    assert all(one.fix for one in found if one.state != "ok")


def test_four_bits_are_really_tried(found, monkeypatch):
    from adapt.doctor import needs

    (four,) = (one for one in found if one.part == "4 bits")
    assert four.state == "ok"
    assert metadata.version("bitsandbytes") in four.value

    def wrong() -> None:
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr(needs, "_nf4", wrong)
    states = {one.name: (one.state, one.value) for one in needs.tried()}
    assert states["NF4 of bitsandbytes"] == ("broken", "no kernel")
    assert states["qlora"] == ("missing", "no kernel")
    assert states["lora"][0] == "ok"


def test_a_version_outside_of_its_range_is_broken_with_the_fix(monkeypatch):
    class Adapt:
        requires = ("typer>=999", "nothing-of-this-name>=1", "rich>=13", "gguf>=0.17; extra == 'gguf'")
        metadata = metadata.Distribution.from_name("rich").metadata

    monkeypatch.setattr(packages, "find_distribution", lambda: Adapt())
    own = {one.name: one for one in packages.required()}
    assert own["typer"].value == f"{metadata.version('typer')}, but adapt needs >=999"
    assert own["typer"].fix == "pip install 'typer>=999'"
    assert [own[name].state for name in ("typer", "nothing-of-this-name", "rich")] == ["broken", "broken", "ok"]
    assert "gguf" not in own


def test_the_command_ends_with_1_where_something_is_broken(monkeypatch):
    broken = doctor.Finding("packages", "torch", "broken", "1.0, but adapt needs >=2.8", "pip install 'torch>=2.8'")
    monkeypatch.setattr(doctor, "examine", lambda: [broken])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "1 thing is broken: torch" in result.stdout
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(as_json.stdout)[0]["name"] == "torch"
    monkeypatch.setattr(doctor, "examine", lambda: [])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
