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
from tests.conftest import ENGLISH, make_tokenizer

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
    from adapt.planning.sketch import Vocabulary
    from adapt.planning.writing import checkpoint_bytes

    config = config_of(ModelLocation(name))
    assert checkpoint_bytes(config, Vocabulary(config.vocab_size)) == 2 * count


def test_other_tunings_have_the_same_shape():
    assert known_shape("meta-llama/Llama-3.2-1B-Instruct") == known_shape("meta-llama/Llama-3.2-1B")
    assert known_shape("google/gemma-2-9b-it") == known_shape("google/gemma-2-9b")
    assert known_shape("Qwen/Qwen3-8B") == known_shape("Qwen/Qwen3-8B-Base")
    assert known_shape("nobody/Llama-3.2-1B") is None


@pytest.mark.slow
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


def test_on_a_cpu_nothing_is_advised_that_needs_a_gpu():
    from adapt.planning.advice import candidates
    from adapt.stages.train import Train

    stage = Train(kind="train", model="m", mixture={"t": 1}, method="lora", tokens=9, sequence_length=512, batch_size=2)
    said = {device: str(list(candidates(stage, device))) for device in ("cpu", "cuda")}
    for key in ("paged_adamw_8bit", "activation_offloading"):
        assert key in said["cuda"]
        assert key not in said["cpu"]
    assert "adamw_8bit" in said["cpu"]
    assert "256" in said["cpu"], "what needs no GPU is still advised behind it"


def mixture_of_experts(folder):
    from transformers import MixtralConfig

    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        architectures=["MixtralForCausalLM"],
    )
    tokenizer = make_tokenizer(ENGLISH)
    config.vocab_size = len(tokenizer)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_stage_without_an_estimate_has_a_line_and_the_others_have_theirs(tmp_path, tiny_model_folder):
    file = write(tmp_path, model=str(tiny_model_folder), method="{kind: mixture_of_lora, adapters: {a: one, b: two}}")
    text = file.read_text().replace("2048", "64").replace("20M", "20k")
    stage = text[text.index("  cpt:") :]
    for name in ("two", "one"):
        other = stage.replace("cpt:", f"{name}:").replace("{kind: mixture_of_lora, adapters: {a: one, b: two}}", "lora")
        text = text.replace("stages:\n", f"stages:\n{other}", 1)
    file.write_text(text)
    plan = adapt.plan(file, gpu="24GB")
    assert [bool(stage.note) for stage in plan.stages] == [False, False, True]
    assert plan.stages[0].memory.peak
    done = CliRunner().invoke(app, ["plan", str(file), "--gpu", "24GB"])
    assert done.exit_code == 0, done.output
    assert "cpt: no estimate: the adapters of method 'mixture_of_lora' are read when the stage runs" in done.output
    assert "Traceback" not in done.output


def test_a_model_whose_step_hangs_on_values_is_a_line_or_an_estimate(tmp_path):
    file = write(tmp_path, model=mixture_of_experts(tmp_path / "experts"), method="full")
    (stage,) = adapt.plan(file, ["stages.cpt.sequence_length=32"], gpu="24GB").stages
    assert stage.memory is not None or stage.note.startswith("a step of a model of type 'mixtral' cannot be made")
