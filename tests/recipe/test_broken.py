"""What the author of a broken recipe reads: every line, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from good_recipe import GOOD, problems

from adapt.data.sources import Files, Generator
from adapt.evaluation.suites import SUITES, ExactMatchSuite
from adapt.methods import METHODS
from adapt.methods.lora import Lora
from adapt.recipe import ModelSettings, Recipe
from adapt.stages import STAGES
from adapt.stages.expand_vocabulary import ExpandVocabulary
from adapt.stages.train import Train
from adapt.training.objectives import OBJECTIVES
from adapt.training.optimizer import Optimizer
from adapt.training.optimizers import OPTIMIZERS
from adapt.training.schedules import SCHEDULES
from adapt.vocabulary.initialisation import INITIALISATIONS

TABLE = yaml.safe_load((Path(__file__).parent / "broken.yaml").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=f"{group}: {name}") for group, cases in TABLE.items() for name, case in cases.items()]


def words(here: Path) -> dict[str, str]:
    """Lists and descriptions that belong to other rooms and grow with them, as they are now."""
    models = {
        "train": Train,
        "lora": Lora,
        "expand_vocabulary": ExpandVocabulary,
        "exact_match": ExactMatchSuite,
        "optimizer": Optimizer,
        "recipe": Recipe,
        "files": Files,
    }
    tables = {"stages": STAGES, "methods": METHODS, "schedules": SCHEDULES, "suites": SUITES}
    tables |= {"objectives": OBJECTIVES, "optimizers": OPTIMIZERS}
    return {
        **{f"<keys of {name}>": keys(model) for name, model in models.items()},
        **{f"<kinds of {name}>": ", ".join(kinds(table)) for name, table in tables.items()},
        "<kind | of stages>": " | ".join(kinds(STAGES)),
        "<methods of init>": ", ".join(kinds(INITIALISATIONS, "method")),
        "<meaning of path>": meaning(ModelSettings, "path"),
        "<meaning of name>": meaning(Recipe, "name"),
        "<meaning of stages>": meaning(Recipe, "stages"),
        "<meaning of generator>": meaning(Generator, "generator"),
        "<why targets.txt is missing>": next(Files(files="targets.txt").missing()),
        "<here>": str(here),
    }


def keys(model) -> str:
    return ", ".join(field.alias or name for name, field in model.model_fields.items())


def kinds(table, field: str = "kind") -> list[str]:
    return [name for kind in table for name in kind.model_fields[field].annotation.__args__]


def meaning(model, key: str) -> str:
    return " ".join(model.model_fields[key].description.split()).rstrip(".")


def broken(case) -> str:
    if "whole" in case:
        return case["whole"]
    assert "set" in case or GOOD.count(case["old"]) == 1, "the patch must say where"
    return GOOD.replace(case.get("old", "\0"), case.get("new", ""))


@pytest.mark.parametrize("case", CASES)
def test_every_problem_is_told_where_it_stands(here, case):
    expected = case["problems"]
    for placeholder, text in words(here).items():
        expected = expected.replace(placeholder, text)
    assert "\n".join(problems(broken(case), *case.get("set", ()))) + "\n" == expected


def test_the_good_recipe_is_good(here):
    assert problems(GOOD) == []
    assert len(CASES) >= 60


def test_yaml_bombs_are_refused_quickly():
    levels = "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert problems("a: &a [x, x, x, x, x, x, x, x, x]\n" + levels) == [
        "r.yaml:1:4: aliases make this more than 20,000 values or nest it too deeply"
    ]
    assert problems("a: " + "[" * 5000) == ["r.yaml:1:43: not valid YAML: nested too deeply"]
    assert problems("name: " + "x" * 600_000) == ["r.yaml:1:1: 600,006 characters are no recipe (at most 500,000)"]
    assert problems("seed: " + "1" * 5000) == ["r.yaml:1:7: '" + "1" * 40 + "' cannot be read as a number: too long"]
