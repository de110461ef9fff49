"""The export stage: every format from one adapter, what was measured, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.checkpoints import ModelLocation
from adapt.data.sources import Files
from adapt.display import Display
from adapt.errors import AdaptError
from adapt.log import Log
from adapt.methods.adapter import grow_for_adapter
from adapt.report.plots import Plots
from adapt.report.records import Record
from adapt.report.sections import export as section
from adapt.stages.base import StageContext
from adapt.stages.export import Export
from merge.verification import verify
from tests.conftest import ENGLISH
from tests.export.conftest import grown, stages  # noqa: F401 (fixtures)


@pytest.fixture
def run(tmp_path, stages, tiny_model_folder, write):  # noqa: F811
    """Run a stage over a train stage of this method (or a plain model); returns metrics, folder, what was printed."""
    lines = [f"{index}. {line}" for index, line in enumerate(ENGLISH)]
    text = Files(files=(str(write("text.txt", "\n\n".join(lines))),), held_out=0.9)

    def _run(method: str | None, **settings):
        screen, folder = io.StringIO(), tmp_path / "release"
        folder.mkdir(exist_ok=True)
        stage = stages[method] if method else None
        context = StageContext(
            recipe="test",
            stage="release",
            seed=17,
            folder=folder,
            cache=tmp_path / "cache",
            models={"cpt": ModelLocation(str(stage / "model" if stage else tiny_model_folder))},
            sources={"text": text},
            display=Display(Console(file=screen, width=200)),
            log=Log(folder / "log.jsonl"),
            upstream={"cpt": stage} if stage else {},
        )
        settings = {"held_out": "text", "evaluation_bytes": 600} | settings
        return Export(kind="export", model="cpt", **settings).run(context), folder, screen.getvalue()

    return _run


def logits(model, ids) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(ids).logits.float()


def test_every_format_of_an_adapter_is_the_same_model(run, grown):  # noqa: F811
    types = {"types": ["bf16", "q8_0"]}
    metrics, folder, screen = run("qlora", formats=["safetensors", "adapter", "gguf"], shard_size="60k", gguf=types)
    choice = metrics["choice"]
    assert choice["written"] == choice["asked"] == "original"
    assert set(choice["measured"]) == {"original", "dequantised"}
    assert choice["measured"]["dequantised"]["kl"] < choice["measured"]["original"]["kl"]
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "gguf", "model"]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = torch.tensor([tokenizer(ENGLISH[0])["input_ids"]])
    expected = logits(model, ids)
    assert metrics["formats"]["safetensors"]["files"] == len(list((folder / "model").glob("*.safetensors"))) > 1
    base = AutoModelForCausalLM.from_pretrained(grown, dtype=torch.float32)
    base = grow_for_adapter(base, folder / "adapter")
    assert torch.allclose(logits(PeftModel.from_pretrained(base, folder / "adapter"), ids), expected, atol=1e-4)
    found = metrics["formats"]["gguf"]["bf16"]
    read = AutoModelForCausalLM.from_pretrained(folder / "gguf", gguf_file=found["file"], dtype=torch.float32)
    assert torch.allclose(logits(read, ids), expected, atol=0.05)
    assert found["tokens"] == model.get_input_embeddings().weight.shape[0]
    assert found["texts"] > 5
    record = json.loads((folder / "model" / "merge.json").read_text())
    assert record["export"] == choice
    assert list(record["inputs"]["adapter"]["files"]) == ["embedding_rows.safetensors"]
    assert len(list(verify(folder / "model"))) == 3
    assert json.loads((folder / "model" / "adapt_vocabulary.json").read_text())["new_ids"]
    assert "test-cpt-Q8_0.gguf (q8_0): read back and compared: " in screen


def test_the_better_base_is_the_closer_one(run):
    metrics, _, screen = run("qlora", base="better")
    measured = metrics["choice"]["measured"]
    assert metrics["choice"]["written"] == "dequantised"
    assert measured["dequantised"]["kl"] < 1e-6
    assert measured["dequantised"]["top1_agreement"] == 1
    live = metrics["choice"]["live"]["bits_per_byte"]
    assert measured["dequantised"]["bits_per_byte"] == pytest.approx(live, rel=1e-5)
    assert "KL to the live model" in screen


def test_a_correction_comes_closer_and_goes_into_the_adapter(run):
    metrics, folder, _ = run("qlora", base="corrected", correct=32, formats=["safetensors", "adapter"])
    choice = metrics["choice"]
    assert choice["written"] == "corrected"
    assert choice["measured"]["corrected"]["kl"] < choice["measured"]["original"]["kl"]
    assert choice["correction"]["rank"] == 32
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 36
    again, _, _ = run("qlora", base="corrected", correct=32)
    assert again["choice"] == choice


def test_a_plain_adapter_and_a_plain_model(run):
    for method, name in (("lora", "original"), (None, "plain")):
        metrics, folder, _ = run(method, dtype="bfloat16", formats=["gguf"])
        assert metrics["choice"]["written"] == name
        assert metrics["choice"]["measured"][name]["kl"] < 1e-3
        assert not (folder / "model").exists()
        assert [path.name for path in (folder / "gguf").iterdir()] == ["test-cpt-Q8_0.gguf"]


def test_without_text_random_tokens_are_compared(run):
    metrics, folder, _ = run(None, held_out=None)
    assert metrics["choice"]["measured"] == {"plain": {"kl": 0.0, "top1_agreement": 1.0}}
    assert metrics["formats"] == {
        "safetensors": {"files": 1, "bytes": (folder / "model/model.safetensors").stat().st_size}
    }


def test_weights_that_are_not_on_the_disk_are_told(run):
    metrics, _, _ = run("pissa")
    assert metrics["choice"]["moved"] == "init pissa took a part out of them"
    assert set(metrics["choice"]["measured"]) == {"original"}


def test_a_killed_export_begins_again(run):
    metrics, folder, _ = run("qlora", base="better", correct=2)
    for name in ("candidates/original", "live", "adapter_corrected"):
        shutil.copytree(folder / "model", folder / name)
    again, _, _ = run("qlora", base="better", correct=2)
    assert again == metrics
    assert sorted(path.name for path in folder.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (None, {"base": "dequantised"}, "base: dequantised needs an adapter, and 'cpt' is a plain model"),
        (None, {"formats": ["adapter"]}, "'cpt' has no adapter; leave 'adapter' out of formats"),
        ("lora", {"correct": 4}, "correct needs a base in 4 bits, and 'cpt' trained over a plain one"),
        (
            "pissa",
            {"base": "dequantised"},
            r"are not those of its base \(init pissa took a part out of them\); set base",
        ),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(run, method, settings, message):
    with pytest.raises(AdaptError, match=message) as caught:
        run(method, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ({"base": "corrected"}, ("correct",), "base 'corrected' needs the rank of the correction; set correct to 16"),
        ({"base": "better"}, ("held_out",), "base 'better' is chosen by held-out text; name a source with held_out"),
    ],
)
def test_settings_that_do_not_go_together(settings, path, message):
    found = list(Export(kind="export", model="cpt", **settings).complaints({}))
    assert [complaint.path for complaint in found] == [path]
    assert found[0].message.startswith(message)


def test_a_model_stays_only_where_it_is_asked_for():
    assert Export(kind="export", model="cpt").makes_model
    assert not Export(kind="export", model="cpt", formats=["gguf"]).makes_model


def test_the_report_shows_what_was_measured(run, tmp_path):
    metrics, folder, _ = run("qlora", base="better", correct=4, formats=["safetensors", "gguf"])
    record = Record("release", folder, "finished", {"kind": "export", "metrics": metrics})
    text = str(section.section(record, Plots(tmp_path / "plots")))
    for part in ("the live model", "dequantised", "corrected", "directions of that in the adapter", "Q8_0.gguf"):
        assert part in text
