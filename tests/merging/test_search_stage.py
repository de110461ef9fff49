"""A search in a recipe: settings, complaints, what the stage writes, the report."""

from __future__ import annotations

import io
import json

import pytest
from pydantic import ValidationError
from rich.console import Console

from adapt.checkpoints import ModelLocation
from adapt.data.sources import Files
from adapt.display import Display
from adapt.log import Log
from adapt.merging.free import Free
from adapt.merging.settings import SearchSettings
from adapt.report.blocks import Image, Table
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections.merge import section
from adapt.stages.base import StageContext
from adapt.stages.merge import Merge
from tests.merge.family import make_family

EXPRESSION = "cpt + w * (instruct - base)"


def stage(expression=EXPRESSION, **search):
    return Merge(kind="merge", expression=expression, search={"free": {"w": [0, "150%"]}, "on": "target"} | search)


def test_settings_as_a_recipe_writes_them():
    settings = stage(layers={"w": 2}, on=["target", "general"], questions={"tasks": 0.5}).search
    assert settings.frees() == (Free("w", 0.0, 1.5, "layers", 2),)
    assert settings.on == {"target": 1.0, "general": 1.0}
    assert settings.questions == {"tasks": 0.5}
    assert stage(kinds=["w"]).search.frees() == (Free("w", 0.0, 1.5, "kinds"),)
    for wrong in ({"free": {}}, {"free": {"w": [0]}}, {"on": {"target": 0}}, {"method": "annealing"}, {"trials": 0}):
        with pytest.raises(ValidationError):
            stage(**wrong)
    assert SearchSettings(free={"w": [0, 1]}).method == "grid"


def test_what_it_reads():
    reads = stage(questions="tasks").reads()
    assert [(reference.path, reference.name) for reference in reads.models] == [
        (("expression",), name) for name in ("cpt", "instruct", "base")
    ]
    assert [(reference.path, reference.name) for reference in reads.sources] == [
        (("search", "on", "target"), "target"),
        (("search", "questions", "tasks"), "tasks"),
    ]


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ({"on": {}}, ("search",), "nothing says which coefficients are good; name a source with on:"),
        ({"layers": {"v": 2}}, ("search", "layers", "v"), "'v' is not free; free are w"),
        ({"kinds": ["v"]}, ("search", "kinds", 0), "'v' is not free; free are w"),
        ({"free": {"w": [1, 0]}}, ("search", "free"), "the range of 'w' is 1..0; its ends must be in order"),
        (
            {"expression": "cpt + 1 * (instruct - base)"},
            ("search", "free"),
            "'w' is free, but 'cpt + 1 * (instruct - base)' does not name it; its names are cpt, instruct, base",
        ),
        ({"expression": "cpt + w * instruct"}, ("expression",), "'cpt + 1.5 * instruct', character 1: the models'"),
    ],
)
def test_complaints(settings, path, message):
    (complaint,) = stage(**settings).complaints({})
    assert complaint.path == path
    assert complaint.message.startswith(message)


def test_complaints_without_a_search():
    (complaint,) = Merge(kind="merge", expression="cpt + w * (instruct - base)").complaints({})
    assert complaint.path == ("expression",)
    assert (
        complaint.message == f"'{EXPRESSION}', character 9: a model cannot be multiplied by another; only by a number"
    )
    (complaint,) = stage().model_copy(update={"new_rows": "lep-overlap"}).complaints({})
    assert complaint.path == ("new_rows",)
    assert list(stage().complaints({})) == []


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family")).folders


@pytest.mark.parametrize("groups", [{}, {"layers": {"w": 2}, "method": "random", "trials": 3}])
def test_what_it_writes_and_shows(family, write, tmp_path, groups):
    screen, folder = io.StringIO(), tmp_path / "chat"
    folder.mkdir()
    texts = write("uk.txt", "Число 45 пишеться.\nСтолиця Франції Париж.\n")
    context = StageContext(
        recipe="test",
        stage="chat",
        seed=17,
        folder=folder,
        cache=tmp_path / "cache",
        models={name: ModelLocation(str(path)) for name, path in family.items()},
        sources={"target": Files(files=(str(texts),), held_out=1.0)},
        display=Display(Console(file=screen, width=200)),
        log=Log(folder / "log.jsonl"),
    )
    made = stage(**({"trials": 3} | groups))
    metrics = made.run(context)
    found = metrics["search"]
    assert len(found["trials"]) == 3
    assert metrics["expression"] == found["best"]["expression"]
    assert metrics["reload_difference"] < 1e-5
    assert set(metrics["vectors"]) == {"cpt - base", "instruct - base"}
    assert "found in 3 trials, loss " in screen.getvalue()
    json.dumps(metrics)
    again = made.run(context)
    assert again["search"] == found
    blocks = section(
        Record("chat", folder, "finished", {"kind": "merge", "metrics": metrics}), Plots(tmp_path / "report")
    )
    assert any(isinstance(block, Image) and block.file.endswith("chat-search.png") for block in blocks)
    (table,) = (block for block in blocks if isinstance(block, Table) and block.title == "Best coefficients")
    assert len(table.rows) == len(found["best"]["values"])
