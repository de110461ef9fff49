"""A mixture from recipe to scores, and the commands around its folder."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import adapt
from adapt.cli import app
from adapt.mixture.mixture import factors_of, mixture_in
from tests.conftest import ENGLISH, UKRAINIAN
from tests.mixture.shop import logits, some_ids

RECIPE = """\
name: mix
runs: {runs}
models: {{base: {base}}}
data:
  dates: {{files: {folder}/dates.jsonl, held_out: 0.2}}
  numbers: {{files: {folder}/numbers.jsonl, held_out: 0.2}}
stages:
  one:
    kind: train
    model: base
    mixture: {{dates: 1}}
    method: {{kind: lora, r: 4, targets: [q_proj, v_proj]}}
    schedule: {{kind: linear, peak: 5e-3}}
    tokens: 300
    sequence_length: 64
    batch_size: 2
    evaluations: 1
    report_to: []
  two:
    kind: train
    model: base
    mixture: {{numbers: 1}}
    method: {{kind: lora, r: 2, targets: [q_proj, down_proj], rslora: true}}
    tokens: 300
    sequence_length: 64
    batch_size: 2
    evaluations: 1
    report_to: []
  gates:
    kind: train
    model: base
    mixture: {{dates: 0.5, numbers: 0.5}}
    method: {{kind: mixture_of_lora, adapters: {{dates: one, numbers: two/adapter}}, router: {{kind: token, k: 1}}}}
    tokens: 500
    sequence_length: 64
    batch_size: 2
    evaluations: 1
    report_to: []
  scores:
    kind: evaluate
    models: [base, one/adapter, gates/mixture, gates]
    suites:
      dates: {{kind: bits_per_byte, source: dates}}
      asked: {{kind: exact_match, source: asked, limit: 2, max_new_tokens: 4, format: prose}}
"""

FURTHER = """\
  further:
    kind: train
    model: base
    mixture: {dates: 0.5, numbers: 0.5}
    method: {kind: mixture_of_lora, from_mixture: gates/mixture, new: 1, r: 2, targets: [q_proj], train: joint}
    tokens: 500
    sequence_length: 64
    batch_size: 2
    evaluations: 1
    report_to: []
"""


@pytest.fixture
def recipe(tmp_path, tiny_model_folder):
    for name, texts in {"dates": UKRAINIAN, "numbers": ENGLISH}.items():
        rows = [json.dumps({"text": f"{text} {index}."}) for index, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    (tmp_path / "asked.jsonl").write_text('{"prompt": "45?", "answer": "forty"}\n{"prompt": "12?", "answer": "x"}\n')
    text = RECIPE.format(runs=tmp_path / "runs", base=tiny_model_folder, folder=tmp_path)
    text = text.replace("stages:\n", f"  asked: {{files: {tmp_path}/asked.jsonl}}\nstages:\n", 1)
    file = tmp_path / "mix.yaml"
    file.write_text(text)
    return file


@pytest.mark.slow
def test_a_recipe_trains_adapters_apart_then_gates_and_scores_them_live(recipe):
    finished = adapt.run(recipe)
    scores = finished.outcome.stages["scores"].manifest["metrics"]["models"]
    assert list(scores) == ["base", "one/adapter", "gates/mixture", "gates"]
    assert all(0 < cell["dates"]["value"] < 20 for cell in scores.values())
    assert scores["gates/mixture"]["dates"]["value"] != scores["gates"]["dates"]["value"]
    again = adapt.run(recipe)
    assert all(result.state == "kept" for result in again.outcome.stages.values())


@pytest.mark.slow
def test_a_mixture_trains_further_with_a_new_adapter(recipe):
    recipe.write_text(recipe.read_text() + FURTHER)
    stages = adapt.run(recipe, ["stages.scores.models=[further/mixture]"]).outcome.stages
    before, after = (adapt.load_mixture(stages[name].folder / "mixture")[0] for name in ("gates", "further"))
    assert mixture_in(before).names == ("dates", "numbers")
    assert mixture_in(after).names == ("dates", "numbers", "new_1")
    changed = {name: factors_of(after, name) for name in mixture_in(after).names}
    assert all(own.b.any() for own in changed["new_1"].values())
    old = factors_of(before, "dates")
    assert changed["dates"].keys() == old.keys()
    assert not all(torch.equal(own.b, old[module].b) for module, own in changed["dates"].items())
    numbers = stages["further"].manifest["metrics"]
    assert numbers["changed_tensors_ok"]
    assert numbers["reload_difference"] < 1e-3


@pytest.mark.slow
def test_texts_are_measured_in_their_own_domain(recipe):
    options = [
        "stages.gates.method.router=enforced",
        "stages.gates.method.train=joint",
        "stages.scores.models=[base, gates/mixture]",
        "stages.scores.suites={d: {kind: bits_per_byte, source: dates}}",
    ]
    scores = adapt.run(recipe, options).outcome.stages["scores"].manifest["metrics"]["models"]
    assert scores["gates/mixture"]["d"]["value"] < scores["base"]["d"]["value"]


def run(*arguments):
    return CliRunner().invoke(app, ["mixture", *map(str, arguments)])


def test_commands_put_mixtures_together(tmp_path, tiny_model_folder, adapters):
    two = [f"{name}={adapters[name]}" for name in ("dates", "numbers")]
    first, grown, smaller = (tmp_path / name for name in ("first", "grown", "smaller"))
    done = run("new", *two, "--base", tiny_model_folder, "--router", "{kind: arrow, k: 1}", "-o", first)
    assert done.exit_code == 0, done.output
    assert run("add", first, f"places={adapters['places']}", "-o", grown).exit_code == 0
    told = run("info", grown)
    assert told.exit_code == 0
    assert "gates: one for each projection; k 1, temperature 1.0, kind arrow" in told.output
    assert "no weight yet" in told.output
    assert run("prune", grown, "numbers", "-o", smaller).exit_code == 0
    before, after = (logits(adapt.load_mixture(folder)[0], some_ids()) for folder in (first, grown))
    assert abs(before - after).max() < 1e-5
    assert mixture_in(adapt.load_mixture(smaller)[0]).names == ("dates", "places")


def test_commands_say_what_is_wrong_in_a_line(tmp_path, tiny_model_folder, adapters):
    dates = f"dates={adapters['dates']}"
    base = ("--base", tiny_model_folder, "-o", tmp_path / "new")
    cases = {
        ("new", dates, dates, *base): "the name 'dates' is given twice",
        ("new", "dates", *base): "'dates' is not of the form NAME=ADAPTER",
        ("new", dates, *base, "--router", "token"): "--router 'token': its gates have to be trained",
        ("new", dates, *base, "--router", "tokn"): "--router 'tokn' is no router",
        ("new", dates, "--base", tiny_model_folder, "-o", tmp_path): "is there already",
        ("info", tmp_path): "holds no mixture (no mixture.json)",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert done.exit_code == 1
        assert message in done.output, done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "new").exists()
