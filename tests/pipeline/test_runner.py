"""What runs, what is kept, and what is said about it."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from toys import Count, Fail, Score, Steps, make_graph, quiet, three_stages

from adapt.errors import AdaptError
from adapt.pipeline import read_manifest, run, status
from adapt.pipeline.hashes import sha256_of


def states(outcome):
    return {name: result.state for name, result in outcome.stages.items()}


def go(graph, **arguments):
    display, text = quiet()
    return run(graph, display, **arguments), text.getvalue()


ALL_DONE = {"counted": "done", "stepped": "done", "scores": "done"}


def test_a_run_makes_folders_with_whole_manifests(base):
    outcome, text = go(make_graph(base, three_stages()))
    assert states(outcome) == ALL_DONE
    result = outcome.stages["stepped"]
    assert result.folder == base / "runs" / "toy" / "stepped" / result.manifest["key"]
    manifest = read_manifest(result.folder)
    assert manifest == result.manifest == json.loads((result.folder / "manifest.json").read_text())
    assert manifest["settings"] == {"kind": "steps", "model": "counted", "steps": 4, "pause": 0.0}
    assert manifest["inputs"]["stages"] == {"counted": outcome.stages["counted"].manifest["key"]}
    assert manifest["seed"] == 17
    assert manifest["packages"]["torch"]
    assert manifest["hardware"]["cores"] >= 1
    for file in manifest["files"]:
        path = result.folder / file["path"]
        assert (path.stat().st_size, sha256_of(path)) == (file["size"], file["sha256"])
    listed = {file["path"] for file in manifest["files"]}
    present = {str(path.relative_to(result.folder)) for path in result.folder.rglob("*") if path.is_file()}
    assert present - listed == {"manifest.json"}
    assert outcome.stages["scores"].manifest["metrics"] == {"bits_per_byte": "nan"}
    assert "stepped is done in" in text
    assert "general 2.5 → 1.25  steps 4" in text
    assert not list(base.rglob("*.partial"))


def test_a_second_run_does_nothing_and_says_so(base):
    first, _ = go(make_graph(base, three_stages()))
    times = {path: path.stat().st_mtime_ns for path in (base / "runs" / "toy").rglob("*") if path.is_file()}
    second, text = go(make_graph(base, three_stages()))
    assert states(second) == dict.fromkeys(ALL_DONE, "kept")
    assert "nothing to do: the 3 stages are finished" in text
    assert all(f"{name} is finished: {result.folder}" in text for name, result in first.stages.items())
    after = {path: path.stat().st_mtime_ns for path in (base / "runs" / "toy").rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != times.get(path)} <= {base / "runs" / "toy" / ".lock"}


def test_one_changed_stage_reruns_only_what_depends_on_it(base):
    go(make_graph(base, three_stages()))
    outcome, text = go(make_graph(base, three_stages(steps=5)))
    assert states(outcome) == {"counted": "kept", "stepped": "done", "scores": "done"}
    assert "stepped (steps) starts in" in text
    assert "(changed: steps 4 → 5)" in text
    back, _ = go(make_graph(base, three_stages()))
    assert states(back) == dict.fromkeys(ALL_DONE, "kept"), "the old folders are still there"


def test_a_changed_corpus_reruns_what_reads_it(base):
    stages = three_stages() | {"alone": Fail(how="nothing")}
    Fail.errors["nothing"] = lambda folder: None
    go(make_graph(base, stages))
    (base / "corpus.txt").write_text("one two three four")
    outcome, text = go(make_graph(base, stages))
    assert states(outcome) == ALL_DONE | {"alone": "kept"}
    assert "(changed: source 'corpus' changed)" in text


def test_until_leaves_out_the_rest_and_refuses_what_it_cannot_force(base):
    outcome, _ = go(make_graph(base, three_stages()), until="stepped")
    assert states(outcome) == {"counted": "done", "stepped": "done"}
    with pytest.raises(AdaptError, match="'scores' is to be forced, but the run ends before it"):
        go(make_graph(base, three_stages()), until="stepped", force=["scores"])
    with pytest.raises(AdaptError, match="did you mean 'scores'"):
        go(make_graph(base, three_stages()), force=["score"])


def test_force_makes_a_stage_and_what_depends_on_it_again(base):
    first, _ = go(make_graph(base, three_stages()))
    again, text = go(make_graph(base, three_stages()), force=["stepped"])
    assert states(again) == {"counted": "kept", "stepped": "done", "scores": "done"}
    assert "depends on 'stepped', which is forced" in text
    assert again.stages["stepped"].folder == first.stages["stepped"].folder
    assert again.stages["stepped"].manifest["outcome"] == first.stages["stepped"].manifest["outcome"]
    assert not list(base.rglob("*.replaced"))


def test_what_was_made_again_and_came_out_the_same_moves_nothing(base):
    first, _ = go(make_graph(base, three_stages()))
    shutil.rmtree(first.stages["counted"].folder)
    again, _ = go(make_graph(base, three_stages()))
    assert states(again) == {"counted": "done", "stepped": "kept", "scores": "kept"}


def test_what_was_made_again_and_came_out_otherwise_reruns_what_reads_it(base):
    Fail.errors["dice"] = lambda folder: (folder / "dice").write_bytes(os.urandom(8))
    stages = {"dice": Fail(how="dice"), "scores": ReadsFolder(models=("dice",))}
    go(make_graph(base, stages))
    first, _ = go(make_graph(base, stages), force=["dice"], until="dice")
    assert states(first) == {"dice": "done"}
    second, text = go(make_graph(base, stages))
    assert states(second) == {"dice": "kept", "scores": "done"}
    assert "stage 'dice' was made again and came out differently" in text


class ReadsFolder(Score):
    """Reads stages that make no model."""

    def run(self, context):
        (context.folder / "seen").write_text(str(sorted(path.name for path in context.upstream.values())))
        return {}


def test_a_dry_run_writes_nothing_and_says_why(base):
    planned, text = go(make_graph(base, three_stages()), dry_run=True)
    assert states(planned) == dict.fromkeys(ALL_DONE, "pending")
    assert text.count("would run (new)") == 3
    assert not (base / "runs").exists()
    go(make_graph(base, three_stages()))
    _, text = go(make_graph(base, three_stages(steps=6)), dry_run=True)
    assert "counted is finished" in text
    assert "stepped would run (changed: steps 4 → 6)" in text
    assert "scores would run (changed: stage 'stepped' changed)" in text
    _, text = go(make_graph(base, three_stages()), dry_run=True, force=["counted"])
    assert "counted would run (forced)" in text


def test_status_tells_done_partial_and_missing(base):
    Fail.errors["bug"] = lambda folder: {}["missing"]
    stages = three_stages() | {"broken": Fail(how="bug")}
    graph = make_graph(base, stages)
    assert [found.state for found in status(graph)] == ["missing"] * 4
    with pytest.raises(KeyError):
        go(graph)
    found = status(graph)
    assert [(each.name, each.kind, each.state) for each in found] == [
        ("counted", "count", "done"),
        ("stepped", "steps", "done"),
        ("scores", "score", "done"),
        ("broken", "fail", "partial"),
    ]
    assert all(each.folder.is_dir() for each in found)
    (base / "corpus.txt").unlink()
    assert [found.state for found in status(graph)] == ["missing", "missing", "missing", "partial"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "is missing from a finished stage"),
        (lambda path: os.truncate(path, 1), "has 1 bytes, but 64 were written"),
    ],
)
def test_a_spoilt_finished_stage_is_one_line_with_the_fix(base, spoil, message):
    outcome, _ = go(make_graph(base, three_stages()))
    spoil(outcome.stages["stepped"].folder / "model" / "weights.txt")
    with pytest.raises(AdaptError, match=f"weights.txt' {message}; make the stage again with --force stepped"):
        go(make_graph(base, three_stages()))
    again, _ = go(make_graph(base, three_stages()), force=["stepped"])
    assert states(again) == {"counted": "kept", "stepped": "done", "scores": "done"}


def test_a_shard_whose_bytes_changed_is_found_before_it_is_read(base):
    outcome, _ = go(make_graph(base, three_stages()))
    path = outcome.stages["counted"].folder / "model" / "weights.txt"
    path.write_text("4")
    with pytest.raises(
        AdaptError, match=r"weights.txt' is not as it was written: its SHA-256 differs.*--force counted"
    ):
        go(make_graph(base, three_stages(steps=7)))


def test_unfinished_work_of_other_settings_is_said_and_not_touched(base):
    Fail.errors["bug"] = lambda folder: {}["missing"]
    with pytest.raises(KeyError):
        go(make_graph(base, {"s": Fail(how="bug")}))
    Fail.errors["nothing"] = lambda folder: None
    _, text = go(make_graph(base, {"s": Fail(how="nothing")}))
    (old,) = (base / "runs" / "toy" / "s").glob("*.partial")
    assert f"'{old}'" in text
    assert "unfinished work of other settings; delete it at will" in text


def test_a_stage_that_promised_a_model_and_made_none_is_our_mistake(base):
    class Lazy(Count):
        def run(self, context):
            return {}

    with pytest.raises(RuntimeError, match="ended without a checkpoint"):
        go(make_graph(base, {"s": Lazy()}))
    assert status(make_graph(base, {"s": Lazy()}))[0].state == "partial"


def test_partial_work_over_an_input_that_came_out_differently_is_started_over(base):
    Fail.errors["dice"] = lambda folder: (folder / "dice").write_bytes(os.urandom(8))
    stages = {"dice": Fail(how="dice"), "late": Breaks(models=("dice",))}
    with pytest.raises(KeyError):
        go(make_graph(base, stages))
    with pytest.raises(KeyError):
        go(make_graph(base, stages))
    (partial,) = (base / "runs" / "toy" / "late").glob("*.partial")
    assert (partial / "visits").read_text() == "xx", "the same input: gone on with"
    go(make_graph(base, stages), force=["dice"], until="dice")
    with pytest.raises(KeyError):
        go(make_graph(base, stages))
    assert (partial / "visits").read_text() == "x", "another input: from the beginning"


class Breaks(Score):
    """Leaves a mark and breaks."""

    def run(self, context):
        with (context.folder / "visits").open("a") as file:
            file.write("x")
        raise KeyError("a mistake of ours")


def test_only_the_first_of_several_processes_runs_stages(base, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(AdaptError, match="led by the first process"):
        go(make_graph(base, three_stages()))
    assert not (base / "runs").exists()
    monkeypatch.setenv("RANK", "0")
    assert states(go(make_graph(base, {"c": Count(), "s": Steps(model="c")}))[0]) == {"c": "done", "s": "done"}
