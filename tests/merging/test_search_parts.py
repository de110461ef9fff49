"""Free coefficients as they are typed, groups of tensors, ways to propose, the command."""

from __future__ import annotations

import json
import sys

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapt.errors import AdaptError
from adapt.merging.command import search as search_command
from adapt.merging.free import Coefficient, Free, check_names, filled, free_of, words_of
from adapt.merging.groups import groups_of
from adapt.merging.proposals import PROPOSALS
from merge.commands.app import app as merge_app
from merge.expression import syntax
from merge.formula import parse
from merge.kinds import KINDS, is_head, kind_of
from tests.merge.family import make_family

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}.weight" for layer in range(6) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["w=0..1.5"], (Free("w", 0.0, 1.5),)),
        (["w:layers=4=-1..1"], (Free("w", -1.0, 1.0, "layers", 4),)),
        (["w=0..1", "w:kinds"], (Free("w", 0.0, 1.0, "kinds"),)),
        (["w:layers=2", "w=.5..1e0", "d=0.1..0.9"], (Free("w", 0.5, 1.0, "layers", 2), Free("d", 0.1, 0.9))),
    ],
)
def test_free_names_as_they_are_typed(options, expected):
    assert free_of(options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["w"], "--free w has no range; write for example --free w=0..1.5"),
        (["w:kinds"], "--free w has no range; write for example --free w=0..1.5"),
        (["w=0-1"], "--free 'w=0-1' is not understood; write w=0..1.5, w:layers=4=0..1.5 or w:kinds=0..1.5"),
        (["w:layers=0..1"], "--free 'w:layers=0..1' is not understood; write w=0..1.5, w:layers=4=0..1.5 or "),
        (["w:kinds=3=0..1"], "--free 'w:kinds=3=0..1' is not understood; write w=0..1.5, w:layers=4=0..1.5 or "),
        (["w=1..1"], "the range of 'w' is 1..1; its ends must be in order"),
        (["w:layers=0=0..1"], "'w' has 0 groups of layers; it must have at least 1"),
        ([], "no coefficient is free; name one in the expression and give its range: --free w=0..1.5"),
    ],
)
def test_free_names_that_are_no_such(options, message):
    with pytest.raises(AdaptError) as error:
        free_of(options)
    assert str(error.value).startswith(message)


def test_names_of_an_expression():
    assert words_of('ties(base, [a: w, "b-c": 1], density=d)') == ("base", "a", "w", "d")
    with pytest.raises(AdaptError, match=r"^'weight' is free, but 'a \+ wait \* \(b - c\)' does not name it"):
        check_names((Free("weight", 0, 1),), "a + wait * (b - c)")
    with pytest.raises(AdaptError, match="did you mean 'scale'"):
        check_names((Free("scales", 0, 1),), "a + scale * (b - c)")
    with pytest.raises(AdaptError, match="'w' is both a model and a free coefficient"):
        check_names((Free("w", 0, 1),), "a + w * (b - c)", ["w"])


@settings(max_examples=40)
@given(st.floats(-1e4, 1e4).map(lambda value: float(f"{value:.6g}")), st.floats(-2, 2).map(lambda v: float(f"{v:.6g}")))
def test_filled_expressions_mean_their_numbers(value, other):
    text = filled('base - w * (base - "a-w") / 2 + wide * (w - base)', {"w": value, "wide": other})
    assert text.count('"a-w"') == 1
    syntax(text)
    found = parse(filled("base + w * (a - base) - v * (base - a)", {"w": value, "v": other})).coefficients
    assert found["a"] == pytest.approx(value + other, abs=1e-9)


def test_words_are_replaced_whole():
    assert filled("a + w * (b - a) - v * c", {"w": -0.5, "v": -2}) == "a - 0.5 * (b - a) - -2 * c"
    assert filled("w1 + w * (w2 - w1)", {"w": 0.5}) == "w1 + 0.5 * (w2 - w1)"
    assert filled("ties(base, [a: w], density=d)", {"w": -1, "d": 0.25}) == "ties(base, [a: -1], density=0.25)"


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_groups_of_layers(count):
    groups = groups_of([Free("w", 0, 1, "layers", count)], NAMES)
    labels = [coefficient.label for coefficient in groups.coefficients]
    assert len(labels) == count
    order = [groups.labels[name]["w"] for name in NAMES]
    assert [labels.index(label) for label in order] == sorted(labels.index(label) for label in order)
    for label in labels:
        first, last = map(int, label.partition("layers ")[2].rstrip("]").split("-"))
        inside = {int(name.split(".")[2]) for name in NAMES if ".layers." in name and groups.labels[name]["w"] == label}
        assert inside == set(range(first, last + 1))
    assert groups.labels["model.embed_tokens.weight"]["w"] == labels[0]
    assert groups.labels["lm_head.weight"]["w"] == groups.labels["model.norm.weight"]["w"] == labels[-1]


def test_groups_of_kinds_beside_one_for_all():
    groups = groups_of([Free("w", 0, 1, "kinds"), Free("v", 0, 2)], NAMES)
    labels = [coefficient.label for coefficient in groups.coefficients]
    assert labels == ["w[embeddings]", "w[attention]", "w[mlp]", "w[norms]", "v"]
    point = dict(zip(labels, (1, 2, 3, 4, 5), strict=True))
    assert groups.values("model.layers.3.mlp.up_proj.weight", point) == {"w": 3, "v": 5}
    with pytest.raises(AdaptError, match="7 groups of layers, but the model has 6 layers"):
        groups_of([Free("w", 0, 1, "layers", 7)], NAMES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("gpt_neox.embed_in.weight", "embeddings"),
        ("lm_head.weight", "embeddings"),
        ("model.layers.0.self_attn.q_proj.bias", "attention"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("transformer.h.0.ln_1.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("gpt_neox.final_layer_norm.bias", "norms"),
        ("model.layers.0.mlp.down_proj.weight", "mlp"),
        ("model.layers.1.block_sparse_moe.experts.0.w1.weight", "mlp"),
        ("model.layers.0.mixer.A_log", "other"),
    ],
)
def test_kinds_of_tensors(name, kind):
    assert kind_of(name) == kind
    assert kind in KINDS
    assert is_head(name) == (name == "lm_head.weight")


BOX = (Coefficient("a", "a", 0.0, 1.5), Coefficient("b", "b", -1.0, 1.0))


def walked(method, trials, seed, loss):
    proposals, points = PROPOSALS[method](BOX, trials, seed), []
    while len(points) < trials and (point := proposals.ask()) is not None:
        points.append(point)
        proposals.tell(point, loss(point))
    return points


def bowl(point):
    return (point[0] - 1.0) ** 2 + (point[1] + 0.5) ** 2


@pytest.mark.parametrize("method", ["random", "tpe", "cma"])
def test_proposals_stay_in_the_box_and_are_drawn_from_the_seed(method):
    points = walked(method, 20, 3, bowl)
    assert len(points) == 20
    assert all(0 <= a <= 1.5 and -1 <= b <= 1 for a, b in points)
    assert walked(method, 20, 3, bowl) == points
    assert walked(method, 8, 3, bowl) == points[:8]
    assert walked(method, 20, 4, bowl) != points


def test_a_grid_holds_the_ends():
    points = walked("grid", 11, 0, bowl)
    assert len(points) == 9
    assert {a for a, _ in points} == {0.0, 0.75, 1.5}
    assert {b for _, b in points} == {-1.0, 0.0, 1.0}
    with pytest.raises(AdaptError, match="a grid over 2 coefficients has at least 4 points, but trials is 3"):
        walked("grid", 3, 0, bowl)


@pytest.mark.parametrize(("method", "trials"), [("tpe", 60), ("cma", 80)])
def test_optimisers_come_nearer_than_chance(method, trials):
    best = sorted(min(map(bowl, walked(method, trials, seed, bowl))) for seed in range(3))
    chance = sorted(min(map(bowl, walked("random", trials, seed, bowl))) for seed in range(3))
    assert best[1] < chance[1]


def test_what_an_optimiser_needs(monkeypatch):
    with pytest.raises(AdaptError, match="method cma needs at least 2 coefficients, there is only 'a'; use grid"):
        PROPOSALS["cma"](BOX[:1], 10, 0)
    for method, library in (("cma", "cmaes"), ("tpe", "optuna")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(AdaptError, match=rf"needs {library}; install it with: pip install 'adapt\[search\]'"):
            PROPOSALS[method](BOX, 10, 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family")).folders


def command():
    app = typer.Typer()
    app.command("search")(search_command)
    app.command("other")(lambda: None)
    return app


def test_the_command(folders, write, tmp_path):
    text = write("uk.txt", "Число 45 пишеться.\n")
    places = [f"{name}={folders[name]}" for name in ("cpt", "instruct", "base")]
    arguments = ["search", "cpt + w * (instruct - base)", *places, "--free", "w=0..1", "--text", str(text)]
    result = CliRunner().invoke(command(), [*arguments, "--trials", "3", "-o", str(tmp_path / "out"), "--write"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    assert [trial["values"]["w"] for trial in record["trials"]] == [0.0, 0.5, 1.0]
    assert (tmp_path / "out" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    best = record["best"]["expression"]
    assert f"adapt merge '{best}' {' '.join(places)} --vocabulary-from cpt --special-from instruct" in result.output
    written = json.loads((tmp_path / "out" / "model" / "merge.json").read_text())
    assert written["expression"] == best
    line = next(line for line in result.output.splitlines() if "adapt merge '" in line)
    again = [best, *places, *line.split(str(places[-1]))[1].split()[:4], "-o", str(tmp_path / "again"), "-q"]
    assert CliRunner().invoke(merge_app, again).exit_code == 0
    same = json.loads((tmp_path / "again" / "merge.json").read_text())
    assert same["output"]["fingerprint"] == written["output"]["fingerprint"]


def test_groups_by_the_command(folders, write, tmp_path):
    text = write("uk.txt", "Число 45 пишеться.\n")
    places = [f"{name}={folders[name]}" for name in ("cpt", "instruct", "base")]
    arguments = ["search", "cpt + w * (instruct - base)", *places, "--free", "w:layers=2=0..1", "--text", str(text)]
    result = CliRunner().invoke(
        command(), [*arguments, "--method", "random", "--trials", "4", "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    best = json.loads((tmp_path / "out" / "search.json").read_text())["best"]
    assert set(best["by_group"]) == set(best["values"]) == {"w[layers 0-0]", "w[layers 1-1]"}
    assert all(text.startswith("cpt + 0.") for text in best["by_group"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cpt + w * (a - base)"], "no coefficient is free; name one in the expression and give its range"),
        (["cpt + (a - base)", "--free", "w=0..1"], "'w' is free, but 'cpt + (a - base)' does not name it"),
        (["cpt + w * (a - base", "--free", "w=0..1"], "'cpt + w * (a - base', character 20: expected ')'"),
        (["cpt + w * (a - base)", "--free", "w=0..1"], "the expression names 'cpt'; say where it is: cpt=FOLDER"),
        (["cpt + w * (a - base)", "w=x", "--free", "w=0..1"], "'w' is both a model and a free coefficient"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    result = CliRunner().invoke(command(), ["search", *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
