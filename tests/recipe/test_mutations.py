"""Whatever is done to a recipe, its author reads problems, never a traceback."""

from __future__ import annotations

import copy

import yaml
from good_recipe import GOOD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.errors import RecipeError
from adapt.recipe import load_text
from adapt.recipe.show import to_yaml

words = st.sampled_from(
    ["base", "cpt", "grown", "train", "merge", "lora", "all", "kind", "files", "", "1e-3", "cpt + (", "../x"]
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | words, inner, max_size=3),
    max_leaves=5,
)
quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


PLACES = [path for path in places(yaml.safe_load(GOOD)) if path]


def changed(recipe, path, value, how):
    recipe = copy.deepcopy(recipe)
    parent = recipe
    for key in path[:-1]:
        parent = parent[key]
    if how == "replace":
        parent[path[-1]] = value
    elif how == "remove":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[str(value)[:20]] = parent[path[-1]] if how == "copy" else value
    else:
        parent.append(value)
    return recipe


def only_recipe_errors(text, *overrides):
    found = ()
    try:
        load_text(text, "r.yaml", overrides)
    except RecipeError as error:
        found = error.problems
        assert found
    assert all(problem.message and len(str(problem).splitlines()) == 1 for problem in found)
    assert len(set(found)) == len(found)


@quick
@given(path=st.sampled_from(PLACES), value=values, how=st.sampled_from(["replace", "remove", "add", "copy"]))
def test_changed_values(here, path, value, how):
    only_recipe_errors(to_yaml(changed(yaml.safe_load(GOOD), path, value, how)))


@quick
@given(path=st.sampled_from(PLACES), value=values, deeper=st.lists(words, max_size=2))
def test_options(here, path, value, deeper):
    key = ".".join(str(part) for part in (*path, *deeper))
    only_recipe_errors(GOOD, f"{key}={to_yaml(value).strip()}")


@quick
@given(
    start=st.integers(0, len(GOOD)),
    length=st.integers(0, 20),
    new=st.text(max_size=6) | st.sampled_from(list("{}[]&*!|>%@`:\t\"'#-?")),
)
def test_changed_text(here, start, length, new):
    only_recipe_errors(GOOD[:start] + new + GOOD[start + length :])
