"""The page for one's own model: its recipe is the file beside it, its plan is what the planner prints."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

from adapt.cli import app
from tests.docs.pages import ROOT, Block, blocks

EXAMPLE = "docs/examples/my-language.yaml"


def block(title: str) -> Block:
    [found] = [block for block in blocks("docs/your-model.md") if block.title == title]
    return found


def test_the_recipe_on_the_page_is_the_file():
    assert block(EXAMPLE).text == (ROOT / EXAMPLE).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_plan_is_what_adapt_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs" / "examples", "docs/examples")
    for name in ("data/uk/a.txt", "data/en/a.txt", "data/questions.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "How many?", "answer": "two"}\n')
    done = CliRunner().invoke(app, ["plan", EXAMPLE, "--gpu", "rtx4090"])
    assert done.exit_code == 0, done.output
    assert [line.rstrip() for line in done.stdout.splitlines()] == block("adapt plan").text.splitlines()
