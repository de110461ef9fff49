"""The evaluate stage on real checkpoints: what it measures, how it compares, and how it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from adapt.checkpoints import ModelLocation
from adapt.data.sources import Files
from adapt.display import Display
from adapt.errors import AdaptError
from adapt.log import Log
from adapt.stages.base import StageContext
from adapt.stages.evaluate import Evaluate
from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer

SUITES = {
    "text": {"kind": "bits_per_byte", "source": "general"},
    "asked": {"kind": "exact_match", "source": "questions", "max_new_tokens": 6},
    "prose": {"kind": "exact_match", "source": "questions", "format": "prose", "max_new_tokens": 6, "limit": 3},
}
QUESTIONS = [{"prompt": f"How do you write {number}?", "answer": "twelve"} for number in range(12)]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """Two checkpoints with different vocabularies, one without a chat template, and sources as files."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, lines, seed in (("base", ENGLISH, 1), ("chat", UKRAINIAN, 2)):
        tokenizer = make_tokenizer(lines)
        make_model(len(tokenizer), seed=seed, initializer_range=0.2).save_pretrained(folder / name)
        if name == "base":
            tokenizer.chat_template = None
        tokenizer.save_pretrained(folder / name)
    for name, rows in (
        ("general", [{"text": f"{i}. {line}"} for i, line in enumerate(ENGLISH)]),
        ("questions", QUESTIONS),
    ):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def context(room: Path, folder: Path, console: Console | None = None) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        recipe="lang",
        stage="scores",
        seed=17,
        folder=folder,
        cache=folder / "cache",
        models={name: ModelLocation(str(room / name)) for name in ("base", "chat")},
        sources={name: Files(files=str(room / f"{name}.jsonl"), held_out=1.0) for name in ("general", "questions")},
        display=Display(console or Console(file=open(os.devnull, "w"), width=160)),
        log=Log(folder / "log.jsonl"),
    )


def stage(**changes: Any) -> Evaluate:
    return Evaluate(
        **({"kind": "evaluate", "models": ["base", "chat"], "suites": SUITES, "forgetting": "general"} | changes)
    )


@pytest.fixture(scope="module")
def folder(room, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run") / "key.partial"


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(file=open(os.devnull, "w"), width=200, record=True)


@pytest.fixture(scope="module")
def metrics(room, folder, console) -> dict[str, Any]:
    return stage().run(context(room, folder, console))


def test_bits_per_byte_is_that_of_the_plain_function(room, metrics):
    from adapt.checkpoints import load_model, load_tokenizer
    from adapt.evaluation.bits_per_byte import bits_per_byte

    texts = [f"{index}. {line}" for index, line in enumerate(ENGLISH)]
    for name in ("base", "chat"):
        location = ModelLocation(str(room / name))
        result = bits_per_byte(load_model(location), load_tokenizer(location), texts, window_bytes=255)
        score = metrics["models"][name]["text"]
        assert score["value"] == pytest.approx(result.value, rel=1e-6)
        assert score["low"] < score["value"] < score["high"]
        assert score["n"] == len(texts)
    assert metrics["window_bytes"] == 255  # what fits the models' 256 positions


def test_forms_and_numbers_of_questions(metrics):
    forms = {name: (values["asked"]["form"], values["prose"]["form"]) for name, values in metrics["models"].items()}
    assert forms == {"base": ("prose", "prose"), "chat": ("chat", "prose")}
    assert metrics["models"]["base"]["asked"]["n"] == 12
    assert metrics["models"]["base"]["prose"]["n"] == 3


def test_comparison_and_forgetting_are_against_the_own_base(metrics):
    assert metrics["own_base"] == {"chat": "base"}
    result, models = metrics["comparison"]["chat"]["text"], metrics["models"]
    assert result["difference"] == pytest.approx(models["chat"]["text"]["value"] - models["base"]["text"]["value"])
    assert result["win"] + result["tie"] + result["loss"] == models["base"]["text"]["n"]
    forgotten = metrics["forgetting"]["chat"]
    assert forgotten["change"] == result["difference"]
    assert forgotten["percent"] == pytest.approx(100 * result["difference"] / models["base"]["text"]["value"])
    assert list(models["base"]) == list(SUITES)  # the suite on the general source serves for both


def test_forgetting_has_a_suite_of_its_own_where_none_reads_its_source(room, tmp_path):
    metrics = stage(suites={"asked": SUITES["prose"]}).run(context(room, tmp_path))
    assert list(metrics["models"]["chat"]) == ["asked", "forgetting"]
    assert metrics["models"]["chat"]["forgetting"]["metric"] == "bits_per_byte"


def test_examples_show_what_each_model_said(metrics):
    asked = [example for example in metrics["examples"] if example["suite"] == "asked"]
    assert len(asked) == 10
    assert asked[0]["prompt"] == QUESTIONS[0]["prompt"]
    assert set(asked[0]["answers"]) == {"base", "chat"}
    assert asked[0]["right"] == {"base": False, "chat": False}


def test_metrics_are_plain_json(metrics):
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_table_in_the_terminal(metrics, console):
    text = console.export_text(clear=False)
    assert "scores with 95% intervals" in text
    assert f"{metrics['models']['chat']['text']['value']:.3f}" in text
    assert f"{metrics['forgetting']['chat']['percent']:+.1f}%" in text
    assert "in prose" in text


def test_goes_on_with_the_scores_of_a_killed_run(room, folder, metrics, tmp_path):
    """The first model's checkpoint is gone: only scores that were kept can stand for it."""
    (tmp_path / "scores").mkdir()
    shutil.copy(folder / "scores" / "base.json", tmp_path / "scores")
    (tmp_path / "scores" / "chat.part").write_text('{"te')
    weights = room / "base" / "model.safetensors"
    weights.rename(room / "moved")
    try:
        assert stage().run(context(room, tmp_path)) == metrics
    finally:
        (room / "moved").rename(weights)


@pytest.mark.slow
def test_a_sigkill_leaves_whole_scores_or_none(room, metrics, tmp_path):
    """Killed as soon as the first model's scores are there; the second run ends in the same numbers."""
    script = (
        "import sys; from pathlib import Path; from tests.stages.test_evaluate import context, stage; "
        "stage().run(context(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(room), str(tmp_path)], cwd=Path(__file__).parents[2])
    while not list(tmp_path.glob("scores/*.json")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sorted(path.name for path in tmp_path.glob("scores/*.json"))
    assert kept[:1] == ["base.json"]
    assert stage().run(context(room, tmp_path)) == metrics


def test_a_borrowed_chat_template(room, tmp_path):
    suites = {"asked": {**SUITES["asked"], "chat_template_from": "chat", "limit": 2}}
    metrics = stage(suites=suites, forgetting=None).run(context(room, tmp_path))
    assert metrics["models"]["base"]["asked"]["form"] == "chat"


def test_a_model_that_always_answers_right(room, tmp_path):
    """The expected answer is what the model says: exact match is 1, and the interval has no width."""
    first = stage(models=["chat"], suites={"asked": SUITES["asked"]}, forgetting=None)
    said = first.run(context(room, tmp_path / "first"))["examples"]
    rows = [{"q": item["prompt"], "a": "wrong", "aliases": [item["answers"]["chat"]]} for item in said]
    source = tmp_path / "said.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suites = {"asked": {**SUITES["asked"], "prompt": "q", "answer": "a"}}
    given = replace(context(room, tmp_path / "second"), sources={"questions": Files(files=str(source))})
    score = stage(models=["chat"], suites=suites, forgetting=None).run(given)["models"]["chat"]["asked"]
    assert (score["value"], score["low"], score["high"], score["n"]) == (1.0, 1.0, 1.0, 10)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"models": ["base", "base", "chat"]}, ("models", 1), "'base' is listed twice"),
        ({"own_base": {"chat": "other"}}, ("own_base", "chat"), "'other' is not among the models"),
        ({"models": ["chat"]}, ("forgetting",), "no model has a base to compare with"),
        (
            {"suites": {"asked": {**SUITES["asked"], "chat_template_from": "x"}}},
            ("suites", "asked", "chat_template_from"),
            "'x' is not among the models of this stage (base, chat)",
        ),
    ],
)
def test_complaints(changes, path, message):
    complaints = list(stage(**changes).complaints({}))
    assert [complaint.path for complaint in complaints] == [path]
    assert message in complaints[0].message


def test_reads_every_name_with_its_place():
    reads = stage().reads()
    assert [(reference.path, reference.name) for reference in reads.models] == [
        (("models", 0), "base"),
        (("models", 1), "chat"),
    ]
    assert (("suites", "asked", "source"), "questions") in [(r.path, r.name) for r in reads.sources]
    assert (("forgetting",), "general") in [(r.path, r.name) for r in reads.sources]


def test_unknown_keys_and_kinds_are_refused():
    with pytest.raises(ValidationError, match="lenient"):
        stage(suites={"asked": {**SUITES["asked"], "lenient": True}})
    with pytest.raises(ValidationError, match="'bits_per_byte', 'exact_match'"):
        stage(suites={"asked": {"kind": "rouge", "source": "questions"}})


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            {"kind": "exact_match", "source": "questions", "answer": "solution"},
            "row 1 of source 'questions' has no text",
        ),
        (
            {"kind": "exact_match", "source": "questions", "format": "prose", "template": "{ask}"},
            "template '{ask}' does",
        ),
        ({"kind": "bits_per_byte", "source": "nothing"}, "source 'nothing' has no held-out text"),
    ],
)
def test_errors_name_the_source_and_the_fix(room, tmp_path, suite, message):
    given = context(room, tmp_path)
    sources = {**given.sources, "nothing": Files(files=str(room / "general.jsonl"), held_out=0.0)}
    with pytest.raises(AdaptError, match=message):
        stage(suites={"suite": suite}, forgetting=None).run(replace(given, sources=sources))


def test_settings_and_table_import_no_torch():
    code = "import sys, adapt.stages; print('torch' in sys.modules, 'transformers' in sys.modules)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.split() == ["False", "False"]


def test_text_is_cut_at_the_byte_budget_on_a_characters_border(room, tmp_path):
    from adapt.evaluation.suites import BitsPerByteSuite

    path = tmp_path / "uk.jsonl"
    path.write_text(json.dumps({"text": "їжак" * 100}, ensure_ascii=False) + "\n", encoding="utf-8")
    suite = BitsPerByteSuite(kind="bits_per_byte", source="uk", bytes=31)
    (text,) = suite.items(Files(files=str(path), held_out=1.0))
    assert text == ("їжак" * 100)[:15]
