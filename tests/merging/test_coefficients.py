"""The search from Python gives what the command gives."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

import adapt
from adapt.merging.command import search as search_command
from tests.conftest import UKRAINIAN
from tests.merge.family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    (folder / "uk.txt").write_text("\n".join(UKRAINIAN[:4]), encoding="utf-8")
    return folder, make_family(folder)


def test_python_and_the_command_agree(family, tmp_path):
    folder, models = family
    places = {name: models.folders[name] for name in ("cpt", "instruct", "base")}
    expression, text = "cpt + w * (instruct - base)", folder / "uk.txt"
    outcome = adapt.search_merge(expression, places, ["w=0..1"], tmp_path / "python", text=[text], trials=3)
    app = typer.Typer()
    app.command("search")(search_command)
    pairs = [f"{name}={place}" for name, place in places.items()]
    arguments = [expression, *pairs, "--free", "w=0..1", "--text", text, "--trials", "3", "-o", tmp_path / "command"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    ours, theirs = (json.loads((tmp_path / kind / "search.json").read_text()) for kind in ("python", "command"))
    for record in (ours, theirs):
        for trial in record["trials"]:
            del trial["seconds"]
    assert ours == theirs
    assert outcome.losses[outcome.best] == ours["best"]["loss"]
    assert (tmp_path / "python" / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_mistakes_are_those_of_the_command(family, tmp_path):
    _, models = family
    with pytest.raises(adapt.AdaptError, match="nothing says which coefficients are good"):
        adapt.search_merge("cpt + w * (cpt - base)", models.folders, ["w=0..1"], tmp_path)
