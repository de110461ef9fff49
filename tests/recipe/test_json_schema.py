"""The JSON Schema agrees with the loader on good recipes and refuses the common mistakes."""

from __future__ import annotations

import pytest
from good_recipe import GOOD

from adapt.recipe import Recipe
from adapt.recipe.document import parse
from adapt.recipe.json_schema import json_schema

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def accepts(validator, text: str) -> bool:
    return validator.is_valid(parse(text, "r.yaml").value)


def test_every_field_is_described():
    schema = json_schema()
    for name, part in (("Recipe", schema), *schema["$defs"].items()):
        for key, field in part.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"
    assert set(schema["properties"]) == set(Recipe.model_fields)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 17", "seed: 17"),
        ("tokens: 20k", "tokens: 2_000"),
        ("{kind: lora, r: 8, train_embeddings: new_rows}", "full"),
        ("init: mean_of_pieces", "init: {method: convex_hull}"),
        ("corpus: target", "corpus: [target]"),
        ("files: general.jsonl", "files: [general.jsonl]"),
    ],
)
def test_short_and_long_forms_are_accepted(validator, old, new):
    assert accepts(validator, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 17", "seed: -1"),
        ("seed: 17", "sead: 17"),
        ("tokens: 20k", "tokens: 0"),
        ("tokens: 20k", "tokens: many"),
        ("kind: train", "kind: trian"),
        ("{kind: lora, r: 8, train_embeddings: new_rows}", "lorra"),
        ("{files: target.txt}", "{file: target.txt}"),
        ("general: 0.2", "general: 2.5"),
    ],
)
def test_mistakes_are_refused(validator, old, new):
    assert not accepts(validator, GOOD.replace(old, new))
