"""`adapt plan`: verdicts, advice that holds, models that are known without a network, and what is wrong in one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import adapt
from adapt.checkpoints import ModelLocation
from adapt.cli import app
from adapt.errors import AdaptError
from adapt.planning.configs import config_of, known_shape, shapes
from adapt.planning.gpus import gpu_of, usable

COUNTS = {"meta-llama/Llama-3.2-1B": 1_235_814_400, "Qwen/Qwen3-0.6B-Base": 596_049_920}
COUNTS |= {"google/gemma-2-2b": 2_614_341_888, "mistralai/Mistral-7B-v0.3": 7_248_023_552}

RECIPE = """
name: planned
models: {base: MODEL}
data: {text: {files: FILE}}
stages:
  cpt:
    kind: train
    model: base
    mixture: {text: 1}
    method: METHOD
    tokens: 20M
    sequence_length: 2048
"""


def write(tmp_path, model="meta-llama/Llama-3.2-1B", method="lora"):
    (tmp_path / "text.txt").write_text("a line\n", encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    text = RECIPE.replace("MODEL", model).replace("FILE", str(tmp_path / "text.txt")).replace("METHOD", method)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", shapes())
def test_the_table_loads(name):
    config = config_of(ModelLocation(name))
    assert config.hidden_size % 64 == 0
    assert config.num_attention_heads % config.num_key_value_heads == 0


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_known_models_have_as_many_parameters_as_they_say(name, count):
    from adapt.planning.others import checkpoint_bytes
    from adapt.planning.sketch import Vocabulary

    config = config_of(ModelLocation(name))
    assert checkpoint_bytes(config, Vocabulary(config.vocab_size)) == 2 * count


def test_other_tunings_have_the_same_shape():
    assert known_shape("meta-llama/Llama-3.2-1B-Instruct") == known_shape("meta-llama/Llama-3.2-1B")
    assert known_shape("google/gemma-2-9b-it") == known_shape("google/gemma-2-9b")
    assert known_shape("Qwen/Qwen3-8B") == known_shape("Qwen/Qwen3-8B-Base")
    assert known_shape("nobody/Llama-3.2-1B") is None


def test_advice_really_fits(tmp_path):
    file, room = write(tmp_path), usable(gpu_of("8GB"))
    plan = adapt.plan(file, gpu="8GB")
    (stage,) = plan.stages
    assert stage.verdict == "does not fit"
    assert not plan.fits
    sets = [f"stages.cpt.{change}" for change in stage.advice.sets]
    again = adapt.plan(file, sets, gpu="8GB")
    assert again.fits
    assert again.stages[0].memory.peak == stage.advice.peak <= room
    assert again.stages[0].budget.steps == stage.budget.steps, "the update is the same"


@pytest.mark.slow
def test_what_never_fits_has_no_advice(tmp_path):
    (stage,) = adapt.plan(write(tmp_path, method="full"), ["stages.cpt.sequence_length=256"], gpu="1GB").stages
    assert stage.verdict == "does not fit"
    assert stage.advice is None


def test_json_of_a_recipe_with_every_kind_of_stage():
    done = CliRunner().invoke(app, ["plan", "recipes/qlora.yaml", "--gpu", "rtx4090", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["fits"] is True
    assert [stage["kind"] for stage in found["stages"]] == ["expand_vocabulary", "train", "export", "evaluate"]
    train = found["stages"][1]
    assert sum(train["memory"]["parts"].values()) == train["memory"]["peak"]
    assert train["memory"]["parts"]["new rows"] == 300 * 192 * 4, "tied: one table"
    assert train["budget"]["tokens"] == 160_000
    assert "stated" in train["time"]["basis"]


def test_throughput_makes_the_time(tmp_path):
    (stage,) = adapt.plan(write(tmp_path), gpu="24GB", throughput=1000).stages
    assert stage.duration.seconds == 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "rtx9999"], "--gpu 'rtx9999' is no GPU known here; give its memory, as in 24GB, or one of rtx3060"),
        (["--throughput", "0"], "--throughput is 0; give the tokens that are trained in a second"),
        (["--set", "models.base=nobody/nothing-7b"], "the shape of model 'nobody/nothing-7b' is not known here"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    done = CliRunner().invoke(app, ["plan", str(write(tmp_path)), *arguments])
    assert done.exit_code == 1
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_names_of_gpus():
    assert gpu_of("RTX 4090") == gpu_of("rtx4090")
    assert gpu_of("24GB").memory == 24 * 2**30
    with pytest.raises(AdaptError, match="'0GB'"):
        gpu_of("0GB")
