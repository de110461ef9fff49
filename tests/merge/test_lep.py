"""Learned embedding propagation: planted maps are found, equal models give the identity, every choice is recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from merge.checkpoint import Checkpoint
from merge.commands import app
from merge.constituents import constituents
from merge.engine import write
from merge.errors import MergeError
from merge.least_squares import DeficientError, fit
from merge.lep import learn, propagate, with_new_rows
from merge.planning import prepare
from tests.merge.family import EMBED, GROWN, HEAD, make_family

ROOT = Path(__file__).parents[2]
SIZE, SPECIAL = 384, 6
NEW, ORDINARY = slice(SIZE, SIZE + GROWN), slice(SPECIAL, SIZE)
NAMES = ("base", "cpt", "instruct")


@pytest.fixture(scope="module", params=["untied", "tied"])
def family(request, tmp_path_factory):
    return make_family(tmp_path_factory.mktemp(request.param), tied=request.param == "tied")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def matrices(family):
    return [name for name in (EMBED, HEAD) if name in family["base"]]


def planted(family, folder, seed=0, **heads):
    """The base with every row of each matrix taken through an invertible map of its own; returns the maps."""
    shutil.copytree(family.folders["instruct"], folder)
    base, tensors, maps = family["base"], family["instruct"], {}
    for index, name in enumerate(matrices(family)):
        generator = torch.Generator().manual_seed(seed + index)
        maps[name] = torch.eye(64) + 0.05 * torch.randn(64, 64, generator=generator)
        tensors[name] = base[name] @ maps[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return maps


def folders_of(family, **others):
    return {name: family.folders[name] for name in NAMES} | others


def written(merge, out, **options):
    record = write(learn(merge), out, **options)
    return load_file(out / "model.safetensors"), record


@pytest.mark.parametrize("mode", ["overlap", "conversion"])
def test_a_planted_map_is_recovered(family, tmp_path, mode):
    maps = planted(family, tmp_path / "turned")
    result, record = written(propagate(folders_of(family, instruct=tmp_path / "turned"), mode=mode), tmp_path / "out")
    cpt, instruct = family["cpt"], load_file(tmp_path / "turned" / "model.safetensors")
    for name, plant in maps.items():
        assert torch.allclose(result[name][SPECIAL:], (cpt[name] @ plant)[SPECIAL:], atol=2e-6)
        assert torch.equal(result[name][:SPECIAL], instruct[name][:SPECIAL])
        (note,) = record["rows"]["lep"]["maps"][name].values()
        assert note["rank"] == 64
        assert note["residual"] < 1e-6
        assert note["learned_from"] == SIZE - SPECIAL + (GROWN if mode == "conversion" else 0)
    assert set(result) == set(cpt)
    assert record["rows"]["lep"]["mode"] == mode
    assert record["rows"]["lep"]["mapped"] == SIZE + GROWN - SPECIAL


@pytest.mark.parametrize("mode", ["swap", "overlap", "conversion"])
def test_equal_models_give_the_identity_bit_for_bit(family, tmp_path, mode):
    folders = folders_of(family, instruct=family.folders["base"])
    result, _ = written(propagate(folders, mode=mode, body=0.0), tmp_path / "out")
    for name in matrices(family):
        assert torch.equal(result[name][SPECIAL:], family["cpt"][name][SPECIAL:])
    body = next(name for name in result if "up_proj" in name)
    assert torch.equal(result[body], family["base"][body])


@pytest.mark.parametrize("body", [0.0, 0.5, 1.0])
def test_the_body_and_the_swapped_rows(untied, tmp_path, body):
    result, record = written(propagate(folders_of(untied), mode="swap", body=body), tmp_path / "out")
    cpt, base, instruct = untied["cpt"], untied["base"], untied["instruct"]
    for name in set(cpt) - {EMBED, HEAD}:
        assert torch.allclose(result[name], instruct[name] + body * (cpt[name] - base[name]), atol=1e-7)
    assert torch.equal(result[EMBED][SPECIAL:], cpt[EMBED][SPECIAL:])
    assert "maps" not in record["rows"]["lep"]
    assert record["vocabulary_from"] == "cpt"
    assert record["special_from"] == "instruct"


@pytest.mark.parametrize("mode", ["overlap", "conversion"])
@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_new_rows_of_a_merge_are_mapped_and_nothing_else(family, tmp_path, mode, weight):
    expression = f"cpt + {weight} * (instruct - base)"
    folders = folders_of(family)
    plain, _ = written(prepare(expression, folders), tmp_path / "plain")
    result, record = written(with_new_rows(prepare(expression, folders), f"lep-{mode}"), tmp_path / "out")
    base, cpt, instruct = (family[name] for name in ("base", "cpt", "instruct"))
    assert record["rows"]["lep"]["mapped"] == GROWN
    for name in plain:
        if name not in matrices(family):
            assert torch.equal(result[name], plain[name])
            continue
        assert torch.equal(result[name][:SIZE], plain[name][:SIZE])
        x, y = (_rewritten(family, model[name], mode) for model in (base, instruct))
        expected = torch.linalg.lstsq(x, y).solution - torch.eye(64, dtype=torch.float64)
        rows = cpt[name][NEW].double()
        assert torch.allclose(result[name][NEW].double(), rows + weight * rows @ expected, atol=1e-6)
        assert not torch.allclose(result[name][NEW], plain[name][NEW], atol=1e-3)


def _rewritten(family, matrix, mode):
    """Rows of ordinary tokens, and in conversion those of new ones by a reference that encodes them with the base."""
    rows = [matrix[ORDINARY].double()]
    if mode == "conversion":
        base = AutoTokenizer.from_pretrained(family.folders["base"]).backend_tokenizer
        grown = json.loads((family.folders["cpt"] / "tokenizer.json").read_text())["model"]["vocab"]
        pieces = sorted((index, token) for token, index in grown.items() if index >= SIZE)
        rows += [matrix[[t.id for t in base.model.tokenize(piece)]].double().mean(0, True) for _, piece in pieces]
    return torch.cat(rows)


def test_several_vectors_are_several_maps(untied, tmp_path):
    one, other = planted(untied, tmp_path / "one", 3), planted(untied, tmp_path / "other", 7)
    folders = {name: untied.folders[name] for name in ("base", "cpt")}
    folders |= {"one": tmp_path / "one", "other": tmp_path / "other"}
    merge = prepare("cpt + 0.5 * (one - base) + 0.25 * (other - base)", folders)
    result, _ = written(with_new_rows(merge, "lep-overlap"), tmp_path / "out")
    rows = untied["cpt"][EMBED][NEW]
    expected = rows + 0.5 * (rows @ one[EMBED] - rows) + 0.25 * (rows @ other[EMBED] - rows)
    assert torch.allclose(result[EMBED][NEW], expected, atol=2e-6)


@pytest.mark.parametrize("odd", ["cpt", "instruct", "base"])
def test_a_head_that_only_one_model_has(untied, tmp_path_factory, tmp_path, odd):
    """The input embedding stands for a tied head, in the fit and in the rows that are mapped."""
    tied = make_family(tmp_path_factory.mktemp("tied"), tied=True)
    folders = folders_of(tied) | {odd: untied.folders[odd]}
    result, record = written(propagate(folders, mode="overlap"), tmp_path / "out")

    def head(name):
        return untied[name][HEAD] if name == odd else tied[name][EMBED]

    x, y = (head(name)[ORDINARY].double() for name in ("base", "instruct"))
    expected = head("cpt")[SPECIAL:].double() @ torch.linalg.lstsq(x, y).solution
    assert torch.allclose(result[HEAD][SPECIAL:].double(), expected, atol=1e-5)
    assert set(record["rows"]["lep"]["maps"]) == {EMBED, HEAD}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.get_output_embeddings().weight, result[HEAD])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 1.0]))
def test_the_fit_is_least_squares(width, more, seed, ridge):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(2 * width + more, width, generator=generator, dtype=torch.float64) for _ in range(2))
    found = fit(zip(x.clone().split(7), y.clone().split(7), strict=True), width, ridge)
    extra = (ridge * float(x.square().sum()) / width) ** 0.5 * torch.eye(width, dtype=torch.float64)
    whole = torch.cat([x, extra]), torch.cat([y - x, torch.zeros(width, width, dtype=torch.float64)])
    expected = torch.linalg.lstsq(*whole).solution
    assert torch.allclose(found.change, expected, atol=1e-6)
    error = (x + x @ expected - y).norm()
    assert found.residual == pytest.approx(float(error / y.norm()), abs=1e-6)
    assert found.unexplained == pytest.approx(float(error / (y - x).norm()), abs=1e-6)
    singular = torch.linalg.svdvals(x)
    assert found.condition == pytest.approx(float(singular[0] / singular[-1]), rel=1e-3)


def test_a_ridge_keeps_directions_that_nothing_tells_of():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    x[:, 5] = x[:, 4]
    y = x @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    with pytest.raises(DeficientError, match="the 40 rows to learn from span 5 of 6 dimensions"):
        fit([(x.clone(), y.clone())], 6)
    found = fit([(x.clone(), y.clone())], 6, ridge=1e-9)
    assert (found.rank, found.rows) == (5, 40)
    unseen = torch.tensor([0, 0, 0, 0, 1, -1], dtype=torch.float64)
    assert torch.allclose(unseen @ found.change, torch.zeros(6, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(x + x @ found.change, y, atol=1e-5)


def test_the_fit_does_not_depend_on_threads(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(900, 600, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr("merge.parallel.os.sched_getaffinity", lambda _, n=count: set(range(n)))
        found.append(fit([(x.clone(), y.clone())], 600).change)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_constituents_go_back_through_the_merges(tmp_path):
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "aabc": 5, "lost": 6},
        "merges": [["a", "b"], "ab c", ["a", "bc"], ["a", "abc"]],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    known = {"a", "b", "c", "ab"}
    found = constituents(tmp_path, "grown", known)
    assert found == {name: (name,) for name in known} | {"abc": ("ab", "c"), "aabc": ("a", "ab", "c")}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}))
    with pytest.raises(MergeError, match="the tokenizer of 'grown' is a Unigram without merges"):
        constituents(tmp_path, "grown", known)


def test_too_few_rows_are_refused_before_anything_is_written(untied, tmp_path):
    """An instruct model that shares few pieces: fewer rows than dimensions."""
    folder = tmp_path / "poor"
    shutil.copytree(untied.folders["instruct"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i < SPECIAL + 40}
    tokenizer["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    merge = propagate(folders_of(untied, instruct=folder), mode="overlap")
    with pytest.raises(MergeError, match=r"'model\.embed_tokens\.weight' from 'base' to 'instruct': the 40 rows to l"):
        learn(merge)
    assert learn(merge, ridge=0.01).rows.counts["lep"]["maps"][EMBED]["instruct - base"]["rank"] == 40


@pytest.mark.parametrize(
    ("expression", "new_rows", "message"),
    [
        ("cpt + (instruct - base)", "lep", "there is no 'lep' for new rows; use cpt, lep-overlap, lep-conversion"),
        ("ties(base, [cpt, instruct])", "lep-overlap", "new rows by lep-overlap need a sum of differences of models"),
    ],
)
def test_what_new_rows_cannot_be(untied, expression, new_rows, message):
    with pytest.raises(MergeError, match=message):
        with_new_rows(prepare(expression, folders_of(untied)), new_rows)


def test_the_command(untied, tmp_path):
    models = [f"{name}={untied.folders[name]}" for name in NAMES]
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["lep", *models, "-o", str(out), "--mode", "overlap", "--body", "0.5"])
    assert ran.exit_code == 0, ran.output
    assert "398 mapped, 6 special" in ran.output
    assert "learned from 378 rows of rank 64 (condition" in ran.output
    record = json.loads((out / "merge.json").read_text())
    assert record["rows"]["lep"]["maps"][HEAD]["instruct - base"]["residual"] > 0
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == SIZE + GROWN
    assert CliRunner().invoke(app, ["verify", str(out)]).exit_code == 0
    ran = CliRunner().invoke(app, ["lep", *models[:2], "-o", str(tmp_path / "no")])
    assert ran.exit_code == 1
    assert "say where the instruct model is: instruct=FOLDER" in ran.output


def test_the_option_of_a_merge(untied, tmp_path):
    models = [f"{name}={untied.folders[name]}" for name in NAMES]
    text, out = "cpt + 1.0 * (instruct - base)", tmp_path / "out"
    ran = CliRunner().invoke(app, [text, *models, "-o", str(out), "--new-rows", "lep-conversion"])
    assert ran.exit_code == 0, ran.output
    assert json.loads((out / "merge.json").read_text())["rows"]["lep"]["mode"] == "conversion"
    assert "learned from 398 rows" in ran.output
    assert Checkpoint("out", out).height == SIZE + GROWN


def test_bf16_is_rounded_once(untied, tmp_path):
    folders = {}
    for name in NAMES:
        shutil.copytree(untied.folders[name], tmp_path / name)
        tensors = {key: tensor.bfloat16() for key, tensor in untied[name].items()}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        folders[name] = tmp_path / name
    result, _ = written(propagate(folders, mode="overlap"), tmp_path / "out")
    x, y, rows = (untied[name][EMBED].bfloat16().double() for name in ("base", "instruct", "cpt"))
    expected = rows[SPECIAL:] @ torch.linalg.lstsq(x[ORDINARY], y[ORDINARY]).solution
    assert result[EMBED].dtype == torch.bfloat16
    assert (result[EMBED][SPECIAL:] != expected.bfloat16()).double().mean() < 1e-3  # float32 sums, at a tie


HELD = """
import sys, torch
from merge.least_squares import fit
rows, width = int(sys.argv[1]), 256
def blocks():
    for _ in range(rows // 1000):
        x = torch.randn(1000, width, dtype=torch.float64)
        yield x, x + 0.1 * torch.randn(1000, width, dtype=torch.float64)
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = anonymous()
peak = [0]
def watched():
    for pair in blocks():
        yield pair
        peak[0] = max(peak[0], anonymous() - before)
fit(watched(), width)
print(peak[0])
"""


@pytest.mark.slow
def test_the_memory_of_a_fit_does_not_grow_with_its_rows():
    """20 times the rows: 82 MB of X and Y in all, of which a few blocks of 2 MB are held."""
    found = [
        int(subprocess.run([sys.executable, "-c", HELD, rows], cwd=ROOT, capture_output=True, check=True).stdout)
        for rows in ("1000", "20000")
    ]
    assert found[1] < found[0] + 40_000
