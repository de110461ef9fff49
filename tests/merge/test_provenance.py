"""What merge.json and the model card say, and what the commands' help shows."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from merge.commands import app
from merge.provenance import licence
from tests.merge.family import make_family
from tests.merge.reliability import places


def invoke(*arguments):
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_seeds_licences_and_versions_are_recorded(tmp_path):
    family = make_family(tmp_path)
    (family.folders["base"] / "README.md").write_text("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n")
    expression = (
        "dare_ties(base, [instruct: 1.0], density=0.5, seed=3) + 0.5 * (half_reset(cpt, base, ratio=0.5) - cpt)"
    )
    out = tmp_path / "out"
    said = invoke(expression, *places(family, "base", "instruct", "cpt"), "-o", out)
    assert "MB at most of" in said
    assert "are free" in said
    record = json.loads((out / "merge.json").read_text())
    assert record["seeds"] == {"dare_ties": [3], "half_reset": [0]}
    assert record["inputs"]["base"]["license"] == "apache-2.0"
    assert set(record["versions"]) == {"adapt", "torch", "safetensors", "python"}
    card = (out / "README.md").read_text()
    assert f"| base | `{family.folders['base']}` | apache-2.0 | `{record['inputs']['base']['fingerprint']}` |" in card
    assert f"| cpt | `{family.folders['cpt']}` | not said |" in card


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other # see below\n---\n", "other"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        (None, None),
    ],
)
def test_the_licence_is_that_of_the_cards_head(tmp_path, text, found):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert licence(tmp_path) == found


def test_brackets_stay_in_the_help():
    assert "[a: 1, b: 0.5]" in invoke("write", "--help")


def test_methods_are_listed_with_their_formula():
    assert "largest magnitudes; then `base + lambda *" in invoke("methods", "ties")
