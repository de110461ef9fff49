"""`adapt vocab inspect`, as a person types it."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from adapt.commands.vocab import vocab_app
from tests.conftest import ENGLISH, UKRAINIAN


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("uk", UKRAINIAN), ("en", ENGLISH)):
        numbered = [f"{line} {rank}" for rank, line in enumerate(lines * 3)]
        (folder / f"{name}.txt").write_text("\n".join(numbered), encoding="utf-8")
    return folder


def call(*arguments):
    return CliRunner().invoke(vocab_app, ["inspect", *map(str, arguments)], env={"COLUMNS": "160"})


def test_tables_and_files(tiny_model_folder, files, tmp_path):
    result = call(
        *(tiny_model_folder, "--corpus", files / "uk.txt", "--general", files / "en.txt"),
        *("--sizes", "10,0.04k", "-o", tmp_path / "look"),
    )
    assert result.exit_code == 0, result.output
    for said in (
        "384 tokens, 49,152 parameters",
        "fertility",
        "saved of uk.txt",
        "saved of en.txt",
        "␣",
        "add 40 pieces",
    ):
        assert said in result.output
    assert "add 40 pieces" in result.output
    found = json.loads((tmp_path / "look" / "inspection.json").read_text(encoding="utf-8"))
    assert [step["pieces"] for step in found["expansions"]] == [10, 40]
    assert found["expansions"][1]["parameters"] == 40 * 64 * 2
    assert (tmp_path / "look" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_json_and_a_tokenizer_without_a_model(tiny_model_folder, files, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_folder / name, tmp_path / name)
    result = call(tmp_path, "--corpus", files / "uk.txt", "--corpus", files / "en.txt", "--sizes", "20", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["embeddings"] is None
    assert list(found["texts"]) == [str(files / "uk.txt"), str(files / "en.txt")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--corpus", "missing.txt"], "files 'missing.txt' match nothing"),
        (["--corpus", "uk.txt", "--sizes", "1k,many"], "--sizes: 'many' is not a number"),
        (["--corpus", "uk.txt", "--sizes", "0"], "--sizes: '0' is not a whole number from 1"),
        (["--corpus", "uk.txt", "--sample", "0.5"], "--sample: '0.5' is not a whole number from 1"),
    ],
)
def test_mistakes_are_one_line(tiny_model_folder, files, monkeypatch, arguments, said):
    monkeypatch.chdir(files)
    result = call(tiny_model_folder, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1


def test_no_such_model(files):
    result = call("no/such-model", "--corpus", files / "uk.txt")
    assert result.exit_code == 1
    assert result.stderr.startswith("cannot load the tokenizer of 'no/such-model'")
