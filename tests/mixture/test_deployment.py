"""A mixture without its gates: the command, the export stage, and a LoRA that learned from the live mixture."""

from __future__ import annotations

import io

import pytest
import torch
from pydantic import TypeAdapter
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

import adapt
from adapt.checkpoints import ModelLocation, load_model, load_tokenizer
from adapt.cli import app
from adapt.data.sources import AnySource
from adapt.display import Display
from adapt.log import Log
from adapt.mixture.folder import save_mixture
from adapt.mixture.routers.dense import Dense
from adapt.stages.base import StageContext
from adapt.stages.export import Export
from tests.conftest import ENGLISH
from tests.mixture.domain_world import context, ids_of, logits, stage
from tests.mixture.shop import mixed


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_folder, adapters):
    """The folder of a stage that made a mixture, and a file of text."""
    folder = tmp_path_factory.mktemp("made")
    model = mixed(tiny_model_folder, adapters, Dense(temperature=3.0))
    save_mixture(model, load_tokenizer(ModelLocation(str(tiny_model_folder))), folder / "gates" / "mixture")
    (folder / "text.txt").write_text("\n\n".join(ENGLISH[:5]), encoding="utf-8")
    return folder


def test_the_command_says_what_it_costs(made, tmp_path):
    folder, output = str(made / "gates" / "mixture"), tmp_path / "out"
    arguments = ["mixture", "collapse", folder, "-o", str(output), "--by", "svd", "--rank", "3"]
    found = CliRunner().invoke(app, [*arguments, "--text", str(made / "text.txt")])
    assert found.exit_code == 0, found.output
    for words in ("KL to the mixture", "the live mixture", "collapsed by svd", "the base alone", "rank 3 holds"):
        assert words in " ".join(found.output.split())
    assert load_model(ModelLocation(str(output))).config.vocab_size == 384
    again = CliRunner().invoke(app, [*arguments, "--text", str(made / "text.txt")])
    assert again.exit_code != 0
    assert "is not empty; give a new folder" in again.output
    lost = CliRunner().invoke(app, [*arguments, "--text", "nowhere.txt"])
    assert "there is no file 'nowhere.txt'" in lost.output


def in_stage(folder, base, made, **others):
    (folder).mkdir(parents=True)
    source = TypeAdapter(AnySource).validate_python({"files": str(made / "text.txt"), "held_out": 1.0})
    return StageContext(
        recipe="test",
        stage="out",
        seed=5,
        folder=folder,
        cache=folder.parent / "cache",
        models={"gates": ModelLocation(str(base))},
        sources={"text": source},
        display=Display(Console(file=io.StringIO())),
        log=Log(folder / "log.jsonl"),
        upstream={"gates": made / "gates"},
    )


def test_the_export_stage_collapses_a_mixture(made, tmp_path, tiny_model_folder):
    settings = {"kind": "export", "model": "gates/mixture", "held_out": "text", "collapse": {"by": "svd", "rank": 2}}
    exported = Export.model_validate(settings)
    assert [(each.name, each.part) for each in exported.reads().models] == [("gates", "mixture")]
    metrics = exported.run(in_stage(tmp_path / "run", tiny_model_folder, made))
    assert metrics["collapse"]["measured"]["collapsed"]["kl"] > 0
    assert metrics["choice"]["measured"]["plain"]["kl"] < 1e-9
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model", "adapter"}
    assert not (tmp_path / "run" / "collapsed").exists()
    merged = load_model(ModelLocation(str(tmp_path / "run" / "model"))).eval()
    lora, _ = adapt.load_adapter(tmp_path / "run" / "adapter")
    assert torch.allclose(logits(lora, ids_of()), logits(merged, ids_of()), atol=1e-5)


def test_a_collapse_without_text_is_one_line():
    exported = Export.model_validate({"kind": "export", "model": "gates/mixture"})
    message = "a mixture is collapsed with its mean gates over text; name a source"
    assert message in [complaint.message for complaint in exported.complaints({})]


def distilled(folder, base, made, **changes):
    settings = {
        "objective": {"kind": "distil", "teacher": "gates/mixture"},
        "mixture": {"general": 1},
        "method": {"kind": "lora", "r": 6, "dropout": 0.02},
        "tokens": "4k",
        "checkpoints": 3,
        "schedule": {"kind": "linear", "peak": "3e-3"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = context(folder, base, upstream={"gates": made / "gates"})
    found.models["gates"] = ModelLocation(str(base))
    trained = stage(**(settings | changes))
    assert [(each.name, each.part) for each in trained.reads().models] == [("base", ""), ("gates", "mixture")]
    return trained.run(found)


@pytest.mark.slow
def test_a_lora_learns_from_the_live_mixture_and_goes_on_bit_for_bit(made, tmp_path, tiny_model_folder, monkeypatch):
    numbers = distilled(tmp_path / "straight", tiny_model_folder, made)
    closeness = numbers["distillation"]
    assert closeness["end"]["kl"] < 0.9 * closeness["start"]["kl"]
    from adapt.training.callbacks import Watch

    original = Watch.on_step_end

    def stopping(self, args, state, control, **others):
        original(self, args, state, control, **others)
        if state.global_step == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", stopping)
        with pytest.raises(KeyboardInterrupt):
            distilled(tmp_path / "stopped", tiny_model_folder, made)
    assert distilled(tmp_path / "stopped", tiny_model_folder, made)["distillation"]["end"] == closeness["end"]
    straight, stopped = (load_file(tmp_path / name / "model/model.safetensors") for name in ("straight", "stopped"))
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in straight.items())
