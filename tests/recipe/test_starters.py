"""What `adapt init` writes: nothing to put right but what only its user can know."""

from __future__ import annotations

import re

import pytest

from adapt.errors import AdaptError
from adapt.recipe import load_text
from adapt.recipe.commented import commented, starter, write_starter
from adapt.recipe.document import parse
from adapt.recipe.starters import STARTERS


@pytest.mark.parametrize("kind", STARTERS)
def test_a_starter_is_good_but_for_the_files(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = starter(kind)
    for path in set(re.findall(r"files: (\S+)", text)):
        name = path.replace("*", "one")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "one"}\n')
    recipe = load_text(text).recipe
    assert parse(text, "r.yaml").value == STARTERS[kind]
    assert list(recipe.stages) == list(STARTERS[kind]["stages"])


@pytest.mark.parametrize("kind", STARTERS)
def test_comments_are_the_descriptions_each_once(kind):
    comments = re.findall(r"^ *# (.*)$", starter(kind), re.MULTILINE)
    assert len(comments) > 20
    told = [line for line in comments if line.endswith(".") and len(line) > 60]
    assert len(told) == len(set(told))
    assert all(len(line) <= 120 for line in starter(kind).splitlines())


def test_values_of_every_form_are_written_as_they_are():
    values = {
        "name": "no",
        "data": {"a": {"generator": "m:f", "arguments": {"x": [1, "2", "1e3", None, True], "long": ["y" * 40] * 3}}},
        "stages": {"s": {"kind": "merge", "expression": 'a + "b-c" # d'}},
    }
    assert parse(commented(values), "r.yaml").value == values


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "my.yaml"
    write_starter("merge", path)
    before = path.read_text()
    with pytest.raises(AdaptError, match=r"my.yaml' is there already and is not overwritten; choose another name"):
        write_starter("lang", path)
    assert path.read_text() == before
    with pytest.raises(AdaptError, match=r"cannot be written: No such file or directory"):
        write_starter("lang", tmp_path / "nowhere" / "my.yaml")
