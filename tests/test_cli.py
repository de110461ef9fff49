"""The commands as a person meets them: what they print, where, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import adapt
from adapt.cli import app
from adapt.recipe import load_text

ROOT = Path(__file__).parent.parent
RECIPE = """\
name: small
data:
  text: {generator: texts:lines}
stages:
  made:
    kind: create_model
    tokenizer: {corpus: {text: 1.0}, size: 300}
    architecture: {hidden_size: 16, layers: 1, heads: 2, key_value_heads: 2, intermediate_size: 16}
  again:
    kind: create_model
    tokenizer: {corpus: {text: 1.0}, size: 290}
    architecture: {hidden_size: 16, layers: 1, heads: 2, key_value_heads: 2, intermediate_size: 16}
"""
TEXTS = "def lines():\n    return [f'line {number}' for number in range(200)]\n"
INTERRUPTED = (
    "import os, signal\n\ndef lines():\n    yield 'one'\n    os.kill(os.getpid(), signal.SIGINT)\n    yield 'two'\n"
)


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "texts.py").write_text(TEXTS)
    return tmp_path


def adapt_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from adapt.cli import main; main()",
    ]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_version_and_help():
    assert invoke("--version").output == f"adapt {adapt.__version__}\n"
    for command in ((), ("run",), ("check",), ("init",), ("schema",)):
        found = invoke(*command, "--help")
        assert found.exit_code == 0
        assert "adapt" in found.output


@pytest.mark.parametrize(
    "arguments", [["runn"], ["run"], ["check"], ["init", "song"], ["run", "x.yaml", "--untl", "a"]]
)
def test_wrong_usage_ends_with_2(arguments):
    found = invoke(*arguments)
    assert found.exit_code == 2
    assert "Usage:" in found.stderr


def test_check_prints_the_recipe_with_its_defaults_and_the_plan(here):
    found = invoke("check", "small.yaml", "--set", "seed=3", "--set", "stages.made.tokenizer.size=310")
    assert found.exit_code == 0
    text, plan = found.stdout.split("\n\nplan")
    recipe = load_text(text).recipe
    assert (recipe.seed, recipe.stages["made"].tokenizer.size) == (3, 310)
    assert yaml.safe_load(text)["runs"] == "runs"
    assert all(word in plan for word in ("made", "create_model", "text", "to do"))
    assert not (here / "runs").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_checked(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = invoke("check", str(path))
    assert found.exit_code == 0, found.output
    assert "plan" in found.stdout


@pytest.mark.parametrize("command", ["check", "run"])
def test_problems_go_to_standard_error_without_a_traceback(here, command):
    (here / "small.yaml").write_text(
        RECIPE.replace("size: 300", "sise: 300").replace("text: 1.0}, size: 290", "txt: 1}")
    )
    found = invoke(command, "small.yaml", "--set", "sead=1")
    assert found.exit_code == 2
    assert found.stdout == ""
    lines = found.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["--set sead=1", "small.yaml:7:38", "small.yaml:11:26"]
    assert "did you mean 'size'?" in lines[1]


def test_run_does_what_is_missing_and_says_where_the_report_lies(here):
    found = invoke("run", "small.yaml", "--until", "made")
    assert found.exit_code == 0, found.output
    assert [path.name for path in (here / "runs" / "small").glob("*/*/model")] == ["model"]
    assert "report: runs/small/report.html" in found.stdout
    assert (here / "runs" / "small" / "report.html").is_file()
    plan = invoke("check", "small.yaml").stdout.split("plan")[1]
    assert "done" in plan
    assert "to do" in plan
    dry = invoke("run", "small.yaml", "--dry-run")
    assert "made is finished" in dry.stdout
    assert "again would run" in dry.stdout
    assert not list((here / "runs" / "small").glob("again/*/model"))


def test_ctrl_c_ends_with_130_and_one_line_that_says_how_to_go_on(here):
    (here / "texts.py").write_text(INTERRUPTED)
    found = adapt_command("run", "small.yaml", folder=here)
    assert found.returncode == 130
    assert found.stderr.count("\n") == 1
    assert "run again to go on" in found.stderr


def test_a_stage_that_is_not_there(here):
    found = invoke("run", "small.yaml", "--until", "mad")
    assert found.exit_code == 1
    assert found.stderr == "recipe 'small' has no stage 'mad'; did you mean 'made'?\n"


def test_init_writes_a_recipe_and_never_over_another(here):
    assert invoke("init", "domain").exit_code == 0
    assert (here / "domain.yaml").read_text().startswith("# ")
    assert invoke("init", "lang", "-o", "my.yaml").exit_code == 0
    again = invoke("init", "merge", "-o", "my.yaml")
    assert again.exit_code == 1
    assert "'my.yaml' is there already" in again.stderr


def test_schema_is_json():
    assert json.loads(invoke("schema").stdout)["title"] == "Recipe"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["schema"], ["init", "lang", "-o", "new.yaml"], ["check", "small.yaml"]], ids=" ".join
)
def test_looking_does_not_load_torch(here, arguments):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from adapt.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'tokenizers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_public_names_are_there():
    assert set(adapt.__all__) <= {*dir(adapt), *adapt._PLACES}
    assert all(getattr(adapt, name) for name in adapt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adapt.nothing  # noqa: B018
