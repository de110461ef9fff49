"""The public names, and a recipe that is a mapping in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from good_recipe import GOOD

import adapt
import merge
from adapt.errors import RecipeError

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_a_mapping_is_the_recipe_of_a_file(here):
    (here / "good.yaml").write_text(GOOD, encoding="utf-8")
    overrides = ["seed=3"]
    of_file = adapt.load_recipe("good.yaml", overrides).recipe
    assert adapt.load_recipe(yaml.safe_load(GOOD), overrides).recipe == of_file
    with_paths = yaml.safe_load(GOOD)
    with_paths["models"]["base"] = Path("models/base")
    assert adapt.load_recipe(with_paths, overrides).recipe == of_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sead": 3}, "recipe:3:3: unknown key 'sead'"),
        ({"seed": {1, 2}}, "recipe: {1, 2} is of the type set; give numbers, texts, lists and mappings"),
        ({"seed": float("nan")}, "recipe:3:11: seed"),
    ],
)
def test_what_a_mapping_cannot_hold_is_said_in_a_line(here, change, message):
    recipe = yaml.safe_load(GOOD)
    del recipe["seed"]
    with pytest.raises(RecipeError) as error:
        adapt.load_recipe({"name": recipe.pop("name"), **change, **recipe})
    assert message in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("room", [adapt, merge], ids=lambda room: room.__name__)
def test_every_public_name_is_there_and_documented(room):
    page = PAGE.read_text(encoding="utf-8")
    for name in room.__all__:
        found = getattr(room, name)
        if not name.startswith("__"):
            assert f"`{room.__name__}.{name}" in page, f"{name} is not on the page"
            assert not callable(found) or found.__doc__
    with pytest.raises(AttributeError, match=f"module '{room.__name__}' has no attribute 'nothing'"):
        room.nothing  # noqa: B018
