"""A working directory with the files and models that the good recipe names."""

from __future__ import annotations

from pathlib import Path

import pytest
from good_recipe import GOOD


@pytest.fixture(scope="session")
def recipe_folder(tmp_path_factory) -> Path:
    """Where `GOOD` has all that it names; do not write to it."""
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("base", "instruct", "empty"):
        (folder / "models" / name).mkdir(parents=True)
    for name in ("base", "instruct"):
        (folder / "models" / name / "config.json").write_text("{}")
    (folder / "target.txt").write_text("Число 45.\n")
    (folder / "general.jsonl").write_text('{"text": "The number 45."}\n')
    (folder / "asked.jsonl").write_text('{"prompt": "45?", "answer": "forty-five"}\n')
    (folder / "other.yaml").write_text(GOOD.replace("name: tiny", "name: other"))
    (folder / "broken.yaml").write_text(GOOD.replace("seed: 17", "sead: 17"))
    (folder / "circle.yaml").write_text(GOOD.replace("models/base", "circle.yaml#cpt"))
    return folder


@pytest.fixture
def here(recipe_folder, monkeypatch) -> Path:
    """The same folder as the working directory."""
    monkeypatch.chdir(recipe_folder)
    return recipe_folder
