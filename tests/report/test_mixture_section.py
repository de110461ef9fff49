"""What the report says of a mixture: the heat map of its gates, their means, what a collapse costs."""

from __future__ import annotations

import pytest

from adapt.report import build
from adapt.report.heat_map import heat_map, place_name
from tests.report.sample import write_stage
from tests.report.test_page import visible

LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
MIXTURE = {
    "names": ["numbers", "dates"],
    "layers": LAYERS,
    "domains": ["numbers", "composites"],
    "router": "token",
    "gate": "projection",
    "usage": [[[0.9, 0.1], [0.5, 0.5]], [[0.8, 0.2], [0.4, 0.6]], [[0.7, 0.3], [0.6, 0.4]]],
    "first": [[[0.9, 0.1], [0.4, 0.6]], [[1.0, 0.0], [0.3, 0.7]], [[0.8, 0.2], [0.2, 0.8]]],
    "entropy": [[0.1, 0.6], [0.2, 0.5], [0.3, 0.4]],
}
TRAINED = {
    "tokens": 1000,
    "mixture": MIXTURE,
    "collapse": {"by": "average", "kl": 0.0123, "top1_agreement": 0.875},
}
EXPORTED = {
    "choice": {},
    "collapse": {
        "by": "svd",
        "rank": 8,
        "lost": 0.125,
        "live": {"bits_per_byte": 0.4321},
        "measured": {
            "collapsed": {"kl": 0.5, "top1_agreement": 0.75, "bits_per_byte": 0.6543},
            "base": {"kl": 2.5, "top1_agreement": 0.25, "bits_per_byte": 1.2345},
        },
        "gates": {layer: {"numbers": 0.6789, "dates": 0.3211} for layer in LAYERS},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    stages = {
        "gates": write_stage(folder, "gates", "train", TRAINED),
        "dense": write_stage(folder, "dense", "export", EXPORTED),
    }
    build(folder, "mixture", stages)
    return folder


@pytest.mark.parametrize(
    "shown",
    [
        "Which adapter is used where",
        "a row for each gate (token, one for each linear layer), a panel for each source",
        "text numbers dates most often first entropy numbers 0.800 0.200 numbers (90%) 0.200",
        "composites 0.500 0.500 dates (70%) 0.500",
        "0 where they are sure, 0.693 where 2 adapters count alike",
        "divergence 1.23e-02, same first choice at 87.5% of a sample's tokens",
        "the live mixture 0 100% 0.4321 collapsed 5.00e-01 75% 0.6543 base 2.50e+00 25% 1.2345",
        "Rank 8 leaves out 12.5% of the sum's squared norm.",
    ],
)
def test_what_a_reader_sees_of_a_mixture(run, shown):
    assert shown in visible((run / "report.html").read_text(encoding="utf-8"))


def test_the_heat_map_is_a_file_and_gates_by_layer_are_no_rows_of_numbers(run):
    assert (run / "plots" / "gates-usage.png").read_bytes()[:4] == b"\x89PNG"
    assert "q_proj: numbers" not in visible((run / "report.html").read_text(encoding="utf-8")).split("manifest")[0]


@pytest.mark.parametrize("layers", [1, 3, 28, 200])
def test_the_heat_map_has_a_panel_for_each_text_and_a_row_for_each_gate(layers):
    names = [f"model.layers.{index // 4}.mlp.part{index % 4}" for index in range(layers)]
    cells = {text: [[1.0, 0.0, 0.0]] * layers for text in ("one", "two")}
    figure = heat_map(cells, names, ["a", "b", "c"])
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    assert all(axes.images[0].get_array().shape == (layers, 3) for axes in panels)
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels[0] == "0 part0"
    assert len(labels) == (layers if layers < 60 else layers // 4)


def test_names_of_places():
    assert place_name("model.layers.3.mlp.down_proj") == "3 down_proj"
    assert place_name("model.layers.3") == "block 3"
    assert place_name("gate") == "gate"
