"""Good recipes: what they become, and what `--set` and the resolved text make of them."""

from __future__ import annotations

import pytest
import yaml
from good_recipe import GOOD, problems

from adapt.errors import AdaptError
from adapt.recipe import graph_of, load, load_text
from adapt.recipe.show import resolved


def loaded(*overrides: str, text: str = GOOD):
    return load_text(text, "r.yaml", overrides).recipe


def test_values_are_what_they_look_like(here):
    cpt = loaded().stages["cpt"]
    assert (cpt.tokens, cpt.schedule.peak, cpt.schedule.warmup) == (20_000, 1e-3, 0.05)
    assert cpt.mixture == {"target": 0.8, "general": 0.2}


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("stages.cpt.tokens=500k", lambda recipe: recipe.stages["cpt"].tokens == 500_000),
        ("stages.cpt.mixture={target: 1.0}", lambda recipe: recipe.stages["cpt"].mixture == {"target": 1.0}),
        ("stages.cpt.optimizer.beta2=0.99", lambda recipe: recipe.stages["cpt"].optimizer.beta2 == 0.99),
        ("stages.cpt.schedule=linear", lambda recipe: recipe.stages["cpt"].schedule.kind == "linear"),
        ("stages.scores.models.1=grown", lambda recipe: recipe.stages["scores"].models == ("base", "grown", "cpt")),
        ("stages.scores.own_base.cpt=instruct", lambda recipe: recipe.stages["scores"].own_base == {"cpt": "instruct"}),
        ("data.more={files: target.txt}", lambda recipe: recipe.data["more"].files == ("target.txt",)),
        ("data.general.held_out=5%", lambda recipe: recipe.data["general"].held_out == 0.05),
        ("description=a = b, c.d", lambda recipe: recipe.description == "a = b, c.d"),
        ("seed = 3", lambda recipe: recipe.seed == 3),
    ],
)
def test_options_go_through_the_same_checks(here, option, read):
    assert read(loaded(option))


def test_the_last_option_for_a_key_wins(here):
    assert loaded("seed=1", "seed=2").seed == 2


def test_an_option_for_a_key_that_the_file_leaves_open(here):
    text = GOOD.replace("seed: 17", "runs:")
    assert problems(text) == ["r.yaml:2:6: runs: nothing stands here; expected text"]
    assert loaded("runs=elsewhere", text=text).runs == "elsewhere"


def test_the_resolved_text_is_the_same_recipe_and_plain_yaml(here):
    recipe = loaded("description='no'", 'name="1e3"', "data.asked.field='on'")
    text = resolved(recipe)
    assert load_text(text).recipe == recipe
    assert yaml.safe_load(text)["data"]["asked"]["field"] == "on"
    assert yaml.safe_load(text)["name"] == "1e3"
    assert next(iter(yaml.safe_load(text)["stages"]["cpt"])) == "kind"


def test_files_and_models_lie_below_the_working_directory_or_beside_the_recipe(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = graph_of(load(here / "other.yaml"))
    assert graph.models["base"].folder == here / "models" / "base"
    assert list(graph.sources["target"].documents()) == [{"text": "Число 45."}]
    assert graph.runs.parts == ("runs",)


def test_a_stage_of_another_recipe_must_be_finished(here):
    recipe = load_text(GOOD.replace("base: models/base", "base: other.yaml#cpt"), "r.yaml")
    with pytest.raises(AdaptError, match=r"'base' is stage 'cpt' of 'other.yaml', which is not finished; first run: "):
        graph_of(recipe)


def test_hub_ids_need_no_network(here):
    graph = graph_of(load_text(GOOD.replace("{path: models/instruct}", "{path: owner/name, revision: v1}"), "r.yaml"))
    assert (graph.models["instruct"].path, graph.models["instruct"].revision) == ("owner/name", "v1")
