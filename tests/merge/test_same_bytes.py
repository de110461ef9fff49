"""The same bytes for any number of threads, size of shards and after any kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from merge.checkpoint import INDEX, Checkpoint
from merge.engine import unfinished, write
from merge.lep import learn, with_new_rows
from merge.planning import prepare
from merge.verification import tensor_hashes
from tests.merge.reliability import EXPRESSIONS, RANDOM, ROOT, SUM, files, places, relatives, run


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return relatives(tmp_path_factory)


@pytest.mark.parametrize("kind", [*EXPRESSIONS, "lep"])
def test_threads_and_shards_change_no_byte(family, tmp_path, kind):
    plan = prepare(EXPRESSIONS.get(kind, SUM), family.folders)
    if kind == "lep":
        plan = learn(with_new_rows(plan, "lep-overlap"))
    write(plan, tmp_path / "one", threads=1)
    expected, hashes = files(tmp_path / "one"), tensor_hashes(Checkpoint("one", tmp_path / "one"))
    for threads, size in ((2, 5 * 10**9), (5, 100_000), (2, 1)):
        out = tmp_path / f"{threads}-{size}"
        record = write(plan, out, size, threads=threads)
        assert tensor_hashes(Checkpoint("out", out)) == hashes == record["output"]["tensors"]
        found = files(out)
        if size > 10**9:
            assert found == expected
        else:
            assert len(list(out.glob("*.safetensors"))) > 3
            assert set(json.loads(found[INDEX])["weight_map"]) == set(hashes)
            for name in ("config.json", "tokenizer.json", "merge.json"):
                assert found[name] == expected[name], name


DYING = """
import os, signal, sys
import merge.device
from merge.commands import app
merge.device.BLOCKS["cpu"] = 1000
moment, left, *arguments = sys.argv[1:]
left = [int(left)]
module, name = (os, moment)
kept = getattr(module, name)
def counted(*given, **more):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return kept(*given, **more)
setattr(module, name, counted)
app(arguments)
"""


def killed(moment: str, count: int, arguments: list[str]) -> int:
    command = [sys.executable, "-c", DYING, moment, str(count), *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


@pytest.fixture(scope="module")
def straight(family, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "out"
    assert run(RANDOM, *places(family, "base", "cpt", "instruct"), "-o", out, "--shard-size", "100kB")[0] == 0
    return files(out)


def resumed(family, out: Path, straight, *moments: tuple[str, int]) -> None:
    """Kill the command at each of the moments, one run after another, then let it finish."""
    arguments = [RANDOM, *places(family, "base", "cpt", "instruct"), "-o", str(out), "--shard-size", "100kB"]
    for moment in moments:
        assert killed(*moment, [*arguments, "--threads", "2"]) == -signal.SIGKILL
        assert [path.name for path in out.parent.iterdir()] == [unfinished(out).name]
    assert run(*arguments, "--threads", "1") == (0, "")
    assert files(out) == straight
    assert list(out.parent.iterdir()) == [out]


def test_killed_twice_inside_of_tensors(family, tmp_path, straight):
    resumed(family, tmp_path / "out", straight, ("pwrite", 60), ("pwrite", 50))


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [
        [("pwrite", 0)],
        [("pwrite", 1), ("pwrite", 2), ("pwrite", 3)],
        [("pwrite", 100), ("fsync", 0)],
        [("fsync", 3), ("fsync", 12)],
        [("replace", 0)],
        [("unlink", 0), ("replace", 0)],
    ],
    ids=str,
)
def test_killed_at_any_moment(family, tmp_path, straight, moments):
    resumed(family, tmp_path / "out", straight, *moments)


def test_what_was_written_before_and_is_broken_now_is_written_again(family, tmp_path, straight):
    out = tmp_path / "out"
    arguments = [RANDOM, *places(family, "base", "cpt", "instruct"), "-o", str(out), "--shard-size", "100kB"]
    assert killed("fsync", 0, arguments) == -signal.SIGKILL
    shard_ = next(path for path in unfinished(out).glob("*.safetensors") if path.stat().st_size > 2000)
    data = bytearray(shard_.read_bytes())
    data[-100] ^= 1
    shard_.write_bytes(data)
    assert run(*arguments) == (0, "")
    assert files(out) == straight


def test_another_merge_to_the_same_place_starts_afresh(family, tmp_path):
    out = tmp_path / "out"
    arguments = [RANDOM, *places(family, "base", "cpt", "instruct"), "-o", str(out)]
    assert killed("fsync", 0, arguments) == -signal.SIGKILL
    assert run(RANDOM.replace("seed=3", "seed=4"), *arguments[1:]) == (0, "")
    assert run(RANDOM.replace("seed=3", "seed=4"), *arguments[1:-1], tmp_path / "other") == (0, "")
    assert files(out) == files(tmp_path / "other")
