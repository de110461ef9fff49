"""The merge stage: from settings to a checkpoint that loads, with what was decided."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.checkpoints import ModelLocation
from adapt.display import Display
from adapt.errors import AdaptError
from adapt.log import Log
from adapt.stages.base import StageContext
from adapt.stages.merge import Merge, _verify
from tests.conftest import CHAT_TEMPLATE
from tests.merge.family import GROWN, make_family
from tests.merge.test_adapters import make_adapter


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    made = make_family(tmp_path_factory.mktemp("family"))
    (made.folders["cpt"] / "adapt_vocabulary.json").write_text('{"new_ids": [384]}')
    return made


@pytest.fixture(scope="module")
def tied_family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture
def run(tmp_path, family):
    """Run a stage and return its metrics, its folder and what was printed."""

    def _run(expression: str, **settings):
        screen, folder = io.StringIO(), tmp_path / "chat"
        folder.mkdir(exist_ok=True)
        models = {name: ModelLocation(str(path)) for name, path in family.folders.items()}
        models["far"] = ModelLocation("nobody/far-away")
        context = StageContext(
            recipe="test",
            stage="chat",
            seed=17,
            folder=folder,
            cache=tmp_path / "cache",
            models=models,
            sources={},
            display=Display(Console(file=screen, width=200)),
            log=Log(folder / "log.jsonl"),
        )
        return Merge(kind="merge", expression=expression, **settings).run(context), folder, screen.getvalue()

    return _run


def test_what_it_writes_and_says(run):
    metrics, folder, screen = run("cpt + 0.5 * (instruct - base)", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.dtype == torch.bfloat16
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert json.loads((folder / "model" / "adapt_vocabulary.json").read_text()) == {"new_ids": [384]}
    written = json.loads((folder / "model" / "merge.json").read_text())
    assert written["expression"] == metrics["expression"] == "cpt + 0.5 * (instruct - base)"
    assert metrics["rows"]["anchor_only"] == GROWN
    assert metrics["reload_difference"] < 1e-5
    assert set(metrics["vectors"]) == {"cpt - base", "instruct - base"}
    assert {"cosines", "row_drift", "warnings", "special_from"} <= set(metrics)
    assert "vocabulary of cpt, chat tokens of instruct" in screen
    assert "warning: 'cpt' moved 6 special rows" in screen
    json.dumps(metrics)


def test_new_rows_by_embedding_propagation(run):
    metrics, folder, screen = run("cpt + 0.5 * (instruct - base)", new_rows="lep-overlap")
    assert "new rows mapped by instruct - base, learned from 378 rows, relative residual 0." in screen
    assert metrics["rows"]["lep"]["mapped"] == GROWN
    assert metrics["reload_difference"] < 1e-5
    assert json.loads((folder / "model" / "merge.json").read_text())["rows"]["lep"]["mode"] == "overlap"


@pytest.mark.parametrize("expression", ["ties(base, [cpt, instruct])", "cpt + 0.5 * (slerp(a, b, t=1) - base)"])
def test_new_rows_of_calls_cannot_be_mapped(expression):
    stage = Merge(kind="merge", expression=expression, new_rows="lep-conversion")
    (complaint,) = stage.complaints({})
    assert complaint.path == ("new_rows",)
    assert "'lep-conversion' needs a sum of differences" in complaint.message


@pytest.mark.parametrize("expression", ["cpt + 0.5 * (chatml - base)", "0.5 * base + 0.5 * instruct"])
def test_tied_models_load_as_they_were_written(run, family, tied_family, monkeypatch, expression):
    monkeypatch.setattr(family, "folders", tied_family.folders)
    metrics, folder, _ = run(expression)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert metrics["reload_difference"] < 1e-5


def test_a_second_run_in_the_same_folder_starts_clean(run):
    _, folder, _ = run("cpt + 0.5 * (instruct - base)")
    (folder / "model" / "stale.safetensors").write_bytes(b"")
    _, folder, _ = run("cpt + 0.5 * (instruct - base)")
    assert not (folder / "model" / "stale.safetensors").exists()


def test_errors_are_one_line(run, family, tmp_path):
    with pytest.raises(AdaptError, match="cannot get the model 'nobody/far-away'") as error:
        run("cpt + 0.5 * (far - base)")
    assert "\n" not in str(error.value)
    path = family.folders["chatml"] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 2}))
    with pytest.raises(AdaptError, match="not of one architecture"):
        run("cpt + 0.5 * (chatml - base)")


def test_a_result_that_does_not_load_is_an_error(run, tmp_path):
    _, folder, _ = run("cpt + 0.5 * (instruct - base)")
    copy = tmp_path / "copy"
    shutil.copytree(folder / "model", copy)
    tensors = load_file(copy / "model.safetensors")
    lost = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
    save_file(lost, copy / "model.safetensors", metadata={"format": "pt"})
    hashes = json.loads((copy / "merge.json").read_text())["output"]["tensors"]
    with pytest.raises(AdaptError, match=r"lacks 1 tensors, the first is 'model\.norm\.weight'"):
        _verify(copy, hashes, 0)
    save_file(tensors | {"model.norm.weight": -tensors["model.norm.weight"]}, copy / "model.safetensors")
    with pytest.raises(AdaptError, match=r"'model\.norm\.weight' has other bytes on the disk than were written"):
        _verify(copy, hashes, 0)


def test_settings():
    stage = Merge(kind="merge", expression="cpt + 0.8 * (instruct - base)", special_from="chat")
    assert [(ref.path, ref.name) for ref in stage.reads().models] == [
        (("expression",), "cpt"),
        (("expression",), "instruct"),
        (("expression",), "base"),
        (("special_from",), "chat"),
    ]
    (complaint,) = stage.complaints({})
    assert complaint.path == ("special_from",)
    assert complaint.message == "'chat' is not in the expression; it names cpt, instruct, base"
    for wrong in ({"expression": "cpt +"}, {"dtype": "int8"}, {"weights": 1}):
        with pytest.raises(ValidationError):
            Merge(**({"kind": "merge", "expression": "cpt"} | wrong))


def test_adapters_and_saved_vectors_stand_in_expressions(run, family, tmp_path, monkeypatch):
    make_adapter(family.folders["base"], tmp_path / "lora")
    monkeypatch.setitem(family.folders, "lora", tmp_path / "lora")
    metrics, folder, _ = run("base + 0.5 * lora", vectors=("lora",))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(load_file(folder / "model" / "model.safetensors")[name], family["base"][name])
    assert "lora" in metrics["inputs"]


def test_vectors_are_told_apart_from_models_before_anything_runs():
    def complaints(expression, **settings):
        return [c.message for c in Merge(kind="merge", expression=expression, **settings).complaints({})]

    assert complaints("base + 0.5 * lora", vectors=("lora",)) == []
    assert "sum to 1.5, not to 1" in complaints("base + 0.5 * lora")[0]
    assert complaints("base + a - base", vectors=("lora",)) == ["'lora' is not in the expression; it names base, a"]
    assert complaints("ties(base, [a, b], density=0.3)") == []
    assert "did you mean 'density'?" in complaints("ties(base, [a, b], densty=0.3)")[0]


def test_strangers_are_refused_unless_they_are_wanted(run, family, tmp_path, monkeypatch):
    stranger = tmp_path / "stranger"
    shutil.copytree(family.folders["base"], stranger)
    weights = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(9)) for k, v in family["base"].items()}
    save_file(weights, stranger / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setitem(family.folders, "stranger", stranger)
    with pytest.raises(
        AdaptError, match=r"'base' and 'stranger' are no relatives: on a sample, the cosine .*unrelated"
    ):
        run("0.5 * base + 0.5 * stranger")
    run("0.5 * base + 0.5 * stranger", unrelated=True)
