"""Every recipe that is shipped: it is valid as it stands, and it runs at a reduced budget."""

from __future__ import annotations

from pathlib import Path

import pytest

import adapt

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert adapt.load_recipe(path).recipe.stages
