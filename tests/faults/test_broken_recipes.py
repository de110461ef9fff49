"""Recipes that no one should have written: one line each, exit code 2, at once, and nothing is run or made."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from adapt.cli import app
from adapt.errors import AdaptError, RecipeError
from adapt.recipe import load_text
from adapt.recipe.show import resolved, to_yaml
from tests.faults.workshop import RECIPE

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "a: " + "[" * 1000 + "]" * 1000 + "\n"
NO_FILE = "recipe.yaml: cannot be read: Is a directory"

MISTAKES: dict[str, tuple[str | bytes, str]] = {
    "billion laughs": (BOMB, "recipe.yaml:1:32: aliases make this more than 20,000 values or nest it too deeply"),
    "an alias in itself": ("name: &a [*a]\n", "recipe.yaml:1:7: an alias stands inside of what it stands for"),
    "nested 1,000 deep": (DEEP, "recipe.yaml:1:43: not valid YAML: nested too deeply"),
    "a tag that calls": (
        'name: !!python/object/apply:os.system ["touch pwned"]\n',
        "recipe.yaml:1:7: the tag '!!python/object/apply:os.system' is not allowed; a recipe holds plain values",
    ),
    "a tag of an object": (
        "name: !!python/name:os.system\n",
        "recipe.yaml:1:7: the tag '!!python/name:os.system' is not allowed; a recipe holds plain values",
    ),
    "UTF-16": (RECIPE.encode("utf-16"), "recipe.yaml:1:1: the byte 0xff is not UTF-8; save the file as UTF-8"),
    "Windows-1251": (
        "name: мова".encode("cp1251"),
        "recipe.yaml:1:7: the byte 0xec is not UTF-8; save the file as UTF-8",
    ),
    "a zero byte": ("name: a\0b", "recipe.yaml:1:8: the character U+0000 cannot stand in a recipe"),
    "empty": ("", "recipe.yaml:1:1: the file is empty; a recipe is a mapping with the keys name, "),
    "only a comment": ("# later\n", "recipe.yaml:1:1: the file is empty; a recipe is a mapping with the keys name, "),
    "a megabyte": ("#" * 1_000_000, "recipe.yaml:1:1: 1,000,000 bytes are no recipe (at most 500,000)"),
    "weights": (b"\x80\x02}q\x00.", "recipe.yaml:1:1: the byte 0x80 is not UTF-8; save the file as UTF-8"),
}

HUGE = {
    "seed=99999999999999999999999999": "seed: 99999999999999999999999999 is not allowed; it must be at most 4294967295",
    "stages.cpt.tokens=1e400": "inf is not a finite number",
    "stages.cpt.sequence_length=1e18": "",
    "stages.cpt.batch_size=99999999999999999999999": "",
    "stages.cpt.tokens=1e30": "is a larger number than can be counted here",
    "stages.grown.add=1e18": "",
    "stages.cpt.method.r=1e18": "",
}
"""Numbers that no machine has room for. Empty: the line is checked for its form only."""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "instruct"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("target", "general"):
        (tmp_path / f"{name}.txt").write_text("a line\n")
    return tmp_path


def check(command: str, *arguments: str):
    """The command in this process; anything but a plain exit is raised."""
    ran = CliRunner().invoke(app, [command, "recipe.yaml", *arguments])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_file_that_is_no_recipe(here, name, command):
    content, line = MISTAKES[name]
    (here / "recipe.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(here.rglob("*"))
    ran = check(command)
    assert ran.stderr.startswith(line), ran.stderr
    assert ran.exit_code == 2
    assert sorted(here.rglob("*")) == before


def test_a_folder_where_the_recipe_should_be(here):
    (here / "recipe.yaml").mkdir()
    ran = check("run")
    assert (ran.stderr.strip(), ran.exit_code) == (NO_FILE, 2)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("folder", "files 'folder' match nothing; looked in '{here}'"),
        ("nothing.txt", "files 'nothing.txt' match nothing; looked in '{here}'"),
        ("text.doc", "'text.doc' has no known extension ("),
    ],
)
def test_a_corpus_that_is_no_file(here, name, line):
    (here / "folder").mkdir()
    (here / "text.doc").write_text("text")
    (here / "recipe.yaml").write_text(RECIPE.replace("files: target.txt", f"files: {name}"))
    ran = check("run")
    assert ran.stderr.startswith("recipe.yaml:7:11: data.target: " + line.format(here=here)), ran.stderr
    assert ran.exit_code == 2
    assert not (here / "runs").exists()


@pytest.mark.parametrize("option", HUGE)
def test_a_huge_number_is_refused_or_passes_the_check(here, option):
    (here / "recipe.yaml").write_text(RECIPE)
    ran = check("check", "--set", option)
    assert ran.exit_code in (0, 2)
    assert HUGE[option] in ran.stderr
    assert all(line.startswith(f"--set {option}") for line in ran.stderr.splitlines())


WORDS = st.sampled_from(
    ["base", "cpt", "grown", "release", "kind", "..", "/", "\x00", "1e-3", "NaN", "-1", "cpt + (", "ї" * 300]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**62, 2**70), st.floats(), st.text(max_size=8), WORDS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


PLACES = list(places(yaml.safe_load(RECIPE)))
MUTATION = st.tuples(st.sampled_from(PLACES), VALUES, st.sampled_from(["replace", "remove", "rename"]))


def mutated(recipe, path, value, how):
    recipe = parent = copy.deepcopy(recipe)
    for key in path[:-1]:
        parent = parent[key] if isinstance(parent, dict) and key in parent else {}
    if path[-1] not in (parent if isinstance(parent, dict) else ()):
        return recipe
    if how == "rename":
        parent[str(value)[:20]] = parent[path[-1]]
    if how != "replace":
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return recipe


def complaints(work) -> list[str]:
    """The lines with which `work` was refused."""
    try:
        work()
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    except AdaptError as error:
        return [str(error)]
    return []


def looked_at(text: str) -> None:
    """All that happens to a recipe before anything is made: its checks, its print, its keys and its plan."""
    from adapt.display import Display
    from adapt.recipe import run
    from adapt.recipe.planning import plan

    found = complaints(lambda: load_text(text, "recipe.yaml"))
    if not found:
        loaded, silent = load_text(text, "recipe.yaml"), Display(Console(file=io.StringIO()))
        assert not complaints(lambda: load_text(resolved(loaded.recipe), "recipe.yaml"))
        found = complaints(lambda: run(loaded, dry_run=True, display=silent)) + complaints(lambda: plan(loaded))
    assert all(line and len(line.splitlines()) == 1 for line in found)


def deep(recipe):
    changes = st.lists(MUTATION, min_size=1, max_size=3)
    return given(changes=changes)(recipe)


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@deep
@settings(deadline=None, max_examples=10, suppress_health_check=QUIET)
def test_mutated_recipes(here, changes):
    """Whatever is done to a recipe, its author reads lines."""
    recipe = yaml.safe_load(RECIPE)
    for change in changes:
        recipe = mutated(recipe, *change)
    looked_at(to_yaml(recipe))


@pytest.mark.slow
@deep
@settings(deadline=None, max_examples=1000, suppress_health_check=QUIET)
def test_a_thousand_mutated_recipes(here, changes):
    recipe = yaml.safe_load(RECIPE)
    for change in changes:
        recipe = mutated(recipe, *change)
    looked_at(to_yaml(recipe))
