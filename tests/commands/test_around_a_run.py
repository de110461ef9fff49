"""eval, report, compare, runs and chat on real small models and a real small run, and their one-line errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import adapt
from adapt.cli import app

RECIPE = """\
name: small
description: Two models from nothing.
data: {text: {files: text.txt, held_out: 30%}}
stages:
  made:
    kind: create_model
    tokenizer: {corpus: {text: 1.0}, size: 290}
    architecture: {hidden_size: 16, layers: 1, heads: 2, key_value_heads: 2, intermediate_size: 16, context: 160}
  scores:
    kind: evaluate
    models: [made]
    suites: {told: {kind: bits_per_byte, source: text}}
"""
USER = """\
name: user
models: {made: "small.yaml#made"}
data: {text: {files: text.txt, held_out: 30%}}
stages:
  scores:
    kind: evaluate
    models: [made]
    suites: {told: {kind: bits_per_byte, source: text}}
"""


def invoke(*arguments: str, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def line_of(*arguments: str) -> str:
    """The only line on standard error of a command that must fail."""
    found = invoke(*arguments)
    assert found.exit_code == 1, found.output
    assert found.stderr.count("\n") == 1
    return found.stderr.rstrip("\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_folder) -> Path:
    """A working directory with two keys of one recipe, and another recipe that reads the first one's model."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text("".join(f"line {number} of a text\n" for number in range(60)))
        Path("asked.jsonl").write_text('{"prompt": "How do you write 12?", "answer": "twelve"}\n')
        Path("small.yaml").write_text(RECIPE)
        Path("user.yaml").write_text(USER)
        for options in (["small.yaml"], ["user.yaml"], ["small.yaml", "--set", "seed=3"]):
            found = invoke("run", *options)
            assert found.exit_code == 0, found.output
    shutil.copytree(tiny_model_folder, folder / "tiny")
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_eval_measures_what_the_stage_measures(work):
    asked = ["--text", "text.txt", "--items", "asked.jsonl", "--json"]
    found = invoke("eval", "small.yaml#made", "tiny", "--base", "tiny", *asked)
    assert found.exit_code == 0, found.output
    numbers = json.loads(found.stdout)
    assert list(numbers["models"]) == ["tiny", "made"]
    assert numbers["own_base"] == {"made": "tiny"}
    assert set(numbers["comparison"]["made"]) == {"text.txt", "asked.jsonl"}
    same = adapt.evaluate("small.yaml#made", suites=["small.yaml#scores"])
    (manifest,) = (json.loads(path.read_text()) for path in (work / "runs/user").glob("scores/*/manifest.json"))
    assert same["models"]["made"]["told"]["value"] == manifest["metrics"]["models"]["made"]["told"]["value"]


def test_eval_writes_a_page_and_its_numbers(work):
    found = invoke("eval", "tiny", "--text", "text.txt", "--bytes", "300", "-o", "out")
    assert found.exit_code == 0, found.output
    numbers = json.loads(Path("out/evaluation.json").read_text())["metrics"]["models"]["tiny"]["text.txt"]
    assert f"{numbers['value']:.3f}" in found.stdout
    assert f"{numbers['value']:.3f}" in Path("out/report.html").read_text()


def test_eval_says_what_is_wrong_in_a_line(work):
    assert line_of("eval", "tiny") == "nothing to measure; give --text FILE, --items FILE.jsonl or --suite NAME"
    assert line_of("eval", "./no", "--text", "text.txt").startswith("there is no folder './no'")
    Path("empty").mkdir()
    assert line_of("eval", "empty", "--text", "text.txt") == (
        "'empty' is no model: it has no config.json (a checkpoint), no adapter_config.json (an adapter) "
        "and no mixture.json (a mixture)"
    )
    assert line_of("eval", "tiny", "--text", "no.txt") == f"files 'no.txt' match nothing; looked in '{work}'"
    assert line_of("eval", "tiny", "--general", "text.txt").startswith("--general measures what was forgotten")
    assert line_of("eval", "tiny", "--bytes", "many").startswith("--bytes: 'many' is not a number")
    assert line_of("eval", "tiny", "--suite", "small.yaml#made") == (
        "--suite small.yaml#made: stage 'made' does not evaluate; name one of kind evaluate"
    )
    assert line_of("eval", "small.yaml#mad", "--text", "text.txt").startswith("recipe 'small' has no stage 'mad'")


def test_load_any_takes_checkpoints_adapters_stages_and_runs(work, tiny_model_folder):
    from peft import LoraConfig, get_peft_model

    from adapt.checkpoints import ModelLocation, load_model

    model = get_peft_model(load_model(ModelLocation("tiny")), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained("adapter")
    width = {name: adapt.load_any(name)[0].config.hidden_size for name in ("tiny", "adapter", "small.yaml#made")}
    assert width == {"tiny": 64, "adapter": 64, "small.yaml#made": 16}
    assert adapt.load_any("runs/small")[0].config.hidden_size == 16
    (other := Path("other")).mkdir()
    shutil.copytree("adapter", other / "adapter")
    settings = json.loads((other / "adapter/adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(next(Path("runs/small/made").glob("*/model")))
    (other / "adapter/adapter_config.json").write_text(json.dumps(settings))
    assert line_of("chat", "other/adapter", "-p", "a").startswith(
        f"the adapter in 'other/adapter' does not fit the base '{settings['base_model_name_or_path']}'; give the base"
    )


def test_chat_answers_one_prompt(work):
    found = invoke("chat", "tiny", "-p", "How do you write 12?", "--temperature", "0", "--max-new-tokens", "4")
    assert found.exit_code == 0, found.output
    assert found.stdout.endswith("\n")
    assert "--system: this model has no chat template" in line_of("chat", "small.yaml#made", "-p", "a", "--system", "b")


def test_report_is_written_again_from_a_recipe_and_from_a_folder(work):
    page = Path("runs/small/report.html")
    page.unlink()
    assert invoke("report", "small.yaml").stdout == "report: runs/small/report.html\n"
    assert "Two models from nothing." in page.read_text()
    assert invoke("report", "runs/small", "-o", "again.html").exit_code == 0
    assert "Two models from nothing." in Path("again.html").read_text()
    assert line_of("report", "nowhere").startswith("there is no run 'nowhere'")
    assert line_of("report", "runs") == "'runs' holds 2 runs; name one: 'runs/small', 'runs/user'"


def test_compare_shows_what_differs_and_the_numbers(work):
    found = invoke("compare", "small.yaml", "runs/small", "--json")
    assert found.exit_code == 0, found.output
    numbers = json.loads(found.stdout)
    seeds = [row for row in numbers["settings"] if row["name"] == "seed"]
    assert seeds[0]["values"] == {"small.yaml": 17, "runs/small": 3}
    bits = next(row["values"] for row in numbers["numbers"] if row["name"] == "made: told (bits per byte)")
    assert bits["small.yaml"] != bits["runs/small"]
    page = invoke("compare", "small.yaml", "runs/small", "-o", "c.html")
    assert "made: told (bits per byte)" in Path("c.html").read_text()
    assert "Settings that differ" in page.stdout
    assert line_of("compare", "small.yaml#made", "user.yaml", "small.yaml").startswith("these runs share no stage: ")


def test_runs_lists_and_prunes_only_what_nothing_needs(work):
    listed = json.loads(invoke("runs", "--json").stdout)
    assert {(one["recipe"], one["stage"], one["state"]) for one in listed} >= {("small", "made", "finished")}
    assert len(listed) == 5
    assert "nothing to delete" in invoke("runs", "--prune").stdout  # both keys: the last run's, and the recipe's own
    Path("small.yaml").write_text(RECIPE.replace("size: 290", "size: 291"))
    asked = invoke("runs", "--prune", input="n\n")
    assert "nothing was deleted" in asked.stdout
    (reader,) = Path("runs/user").glob("scores/*/manifest.json")
    used = Path(json.loads(reader.read_text())["models"]["made"]).parent
    old = [one for one in listed if one["recipe"] == "small" and one["stage"] == "scores"]
    assert invoke("runs", "--prune", "--yes").exit_code == 0
    assert used.is_dir()  # user.yaml reads it
    left = {one["folder"] for one in json.loads(invoke("runs", "--json").stdout)}
    assert len(left) == 4
    assert len(left & {one["folder"] for one in old}) == 1


def test_unfinished_work_of_the_current_key_is_kept_and_of_others_goes(work):
    keys = json.loads(Path("runs/small/current.json").read_text())["stages"]
    for key in (keys["scores"], "0123456789ab"):
        partial = Path(f"runs/small/scores/{key}.partial")
        partial.mkdir()
        (partial / "started.json").write_text('{"sessions": [{"started": "2026-01-01T10:00:00+00:00"}]}')
    assert invoke("runs", "--prune", "--yes").exit_code == 0
    assert Path(f"runs/small/scores/{keys['scores']}.partial").is_dir()
    assert not Path("runs/small/scores/0123456789ab.partial").exists()


def test_of_a_run_that_noted_no_keys_the_newest_of_each_stage_and_what_it_read_stay(work):
    Path("runs/small/current.json").unlink()
    folders = [Path(one["folder"]) for one in json.loads(invoke("runs", "runs/small", "--json").stdout)]
    newest = {path.parent.name: path for path in sorted(folders, key=finished_at)}
    (reader,) = Path("runs/user").glob("scores/*/manifest.json")
    kept = {*newest.values(), Path(json.loads(reader.read_text())["models"]["made"]).parent}
    partial = newest["scores"].with_name("0123456789ab.partial")
    partial.mkdir()
    (partial / "started.json").write_text("{}")
    asked = invoke("runs", "--prune", input="n\n", env={"COLUMNS": "300"}).stdout
    assert f"of this stage only the newest stays, {newest['scores'].name}" in asked
    assert invoke("runs", "--prune", "--yes").exit_code == 0
    assert {path.absolute() for path in folders if path.is_dir()} == {path.absolute() for path in kept}
    assert partial.is_dir()


def finished_at(folder):
    return json.loads((folder / "manifest.json").read_text())["times"]["finished"]


def test_a_run_that_is_going_on_is_not_touched(work):
    import subprocess
    import sys

    Path("small.yaml").write_text(RECIPE.replace("size: 290", "size: 291"))
    hold = (
        "import sys; from pathlib import Path; from adapt.pipeline.lock import RunLock\n"
        "with RunLock(Path('runs/small')):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = sorted(Path("runs").rglob("*"))
        found = invoke("runs", "--prune", "--yes")
        assert found.exit_code == 1
        assert f"recipe 'small' is being run by process {holder.pid}" in found.stderr
        assert sorted(Path("runs").rglob("*")) == before
    finally:
        holder.communicate("")


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(adapt.__file__).parent.parent)}


def test_stages_are_completed_from_the_recipe(work):
    from types import SimpleNamespace

    from adapt.commands.completion import stages

    assert list(stages(SimpleNamespace(params={"recipe": Path("small.yaml")}), "s")) == ["scores"]
    assert list(stages(SimpleNamespace(params={"recipe": Path("no.yaml")}), "")) == []


def test_every_command_has_an_example():
    for command in app.registered_commands:
        assert command.epilog, command
        assert "Example: adapt " in command.epilog
