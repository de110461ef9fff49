"""What a merge promises about its output: the same bytes however it runs, whole or not there, and every doubt in one
line; through the engine and through the command."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from merge.checkpoint import INDEX, Checkpoint
from merge.commands import app
from merge.engine import unfinished, write
from merge.errors import MergeError
from merge.lep import learn, with_new_rows
from merge.planning import prepare
from merge.verification import tensor_hashes
from tests.conftest import make_model
from tests.merge.family import make_family, plain_tokenizer, save
from tests.merge.test_adapters import make_adapter
from tests.merge.test_merge_failures import NORM, change, configure, shard

ROOT = Path(__file__).parents[2]
SUM = "cpt + 0.5 * (instruct - base)"
RANDOM = "dare_ties(base, [cpt: 1.0, instruct: 0.5], density=0.5, seed=3)"
EXPRESSIONS = {
    "sum": SUM,
    "ties": "ties(base, [cpt: 1.0, instruct: 0.5], density=0.3)",
    "dare_ties": RANDOM,
    "della": "della(base, [cpt: 1.0, instruct: 0.5], density=0.5, seed=3)",
    "karcher": "karcher(base, instruct)",
    "sce": "sce(base, [cpt, instruct], select_topk=0.5)",
    "lora": "base + 0.7 * lora + 0.3 * (instruct - base)",
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    made = make_family(tmp_path_factory.mktemp("family"))
    make_adapter(made.folders["base"], made.folders["base"].with_name("lora"))
    made.folders["lora"] = made.folders["base"].with_name("lora")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments) -> tuple[int, str]:
    """`adapt merge` in this process; whatever is not a plain exit is raised."""
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    return ran.exit_code, ran.stderr


def places(family, *names) -> list[str]:
    return [f"{name}={family.folders[name]}" for name in names]


# The same bytes.


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
import merge.operands
from merge.commands import app
merge.operands.BLOCK = 1000
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


# Whole, or not there.

STOPPING = """
import json, os, signal, sys
from pathlib import Path
from merge.engine import write
from merge.planning import prepare
once = []
def progress(done, total):
    if not once:
        once.append(os.kill(os.getpid(), signal.SIGSTOP))
write(prepare(sys.argv[1], json.loads(sys.argv[2])), Path(sys.argv[3]), progress=progress)
"""


def test_two_merges_to_one_folder(family, tmp_path):
    out = tmp_path / "out"
    folders = json.dumps({name: str(family.folders[name]) for name in ("base", "cpt", "instruct")})
    first = subprocess.Popen([sys.executable, "-c", STOPPING, SUM, folders, str(out)], cwd=ROOT)
    try:
        _wait_until_stopped(first.pid)
        code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", out)
        assert code == 1
        assert errors.splitlines() == [
            f"another merge is writing to '{unfinished(out)}'; wait for it or give another folder"
        ]
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait(60) == 0
    write(prepare(SUM, family.folders), tmp_path / "alone")
    assert files(out) == files(tmp_path / "alone")


def _wait_until_stopped(pid: int) -> None:
    for _ in range(600):
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "T":
            return
        time.sleep(0.05)
    raise AssertionError("the first merge never got to its first tensor")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_too_small_is_known_before(family, small_disk):
    (small_disk / "other").write_bytes(bytes(700_000))
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", small_disk / "out")
    assert code == 1
    assert errors.count("\n") == 1
    assert "needs 0.5 MB, but only 0.3 MB are free there; free some space or give another folder" in errors
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def _written(handle: int) -> int:
    try:
        return os.write(handle, bytes(4096))
    except OSError:
        return 0


def test_a_disk_that_fills_up_meanwhile(family, small_disk):
    def fill(done, total):
        if not (small_disk / "other").exists():
            handle = os.open(small_disk / "other", os.O_CREAT | os.O_WRONLY)
            while _written(handle):
                pass
            os.close(handle)

    with pytest.raises(MergeError, match=r"cannot write '.*out': No space left on device$"):
        write(prepare(SUM, family.folders), small_disk / "out", progress=fill, threads=1)
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_a_file_that_may_not_grow(family, tmp_path):
    """The limit on a file's size stands for every error of the system while writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = prepare(SUM, family.folders)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(MergeError, match=r"cannot write '.*out': File too large$"):
            write(plan, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_an_output_below_a_file(family, tmp_path):
    (tmp_path / "file").write_text("")
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", tmp_path / "file" / "out")
    assert code == 1
    assert errors.count("\n") == 1


# Every doubt in one line.


def stranger(folder):
    model = make_model(384, seed=99)
    shutil.rmtree(folder)
    save(folder, model, plain_tokenizer())


def text(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")


def edited(folder, name, edit):
    path = folder / name
    path.write_text(json.dumps(edit(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def header(folder, edit):
    """Replace the header of the safetensors file."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    new = json.dumps(edit(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])


def duplicated(document):
    document["added_tokens"].append(document["added_tokens"][0] | {"content": "<|twice|>"})
    return document


SECOND = "model-00002-of-00002.safetensors"
BROKEN = {
    "cut short": (lambda f: os.truncate(f / "model.safetensors", 100_000), "is cut short or broken"),
    "empty file": (lambda f: os.truncate(f / "model.safetensors", 0), "is cut short or broken"),
    "overlap": (
        lambda f: header(f, lambda h: h | {NORM: h[NORM] | {"data_offsets": [0, 256]}}),
        "is cut short or broken",
    ),
    "fp8": (
        lambda f: header(f, lambda h: h | {NORM: h[NORM] | {"dtype": "F8_E4M3", "shape": [256]}}),
        "as F8_E4M3, which cannot be added or subtracted",
    ),
    "missing shard": (
        lambda f: shard(f, {SECOND: "model-9.safetensors"}),
        "names 'model-9.safetensors', which is",
    ),
    "wrong index": (lambda f: shard(f, {SECOND: "model-00001-of-00002.safetensors"}), "holds '.*', but it does not"),
    "outside": (lambda f: shard(f, {SECOND: "../base/model.safetensors"}), "which is not in its folder"),
    "absolute": (lambda f: shard(f, {SECOND: "/etc/passwd"}), "names the shard '/etc/passwd', which is not in its"),
    "index without a map": (
        lambda f: (shard(f, {}), text(f, INDEX, "{}")),
        "model.safetensors.index.json' has no weight_map",
    ),
    "index that is no map": (
        lambda f: (shard(f, {}), text(f, INDEX, '{"weight_map": ["a"]}')),
        "model.safetensors.index.json' has no weight_map",
    ),
    "no tensors": (lambda f: (shard(f, {}), text(f, INDEX, '{"weight_map": {}}')), "has no tensor|0 input embeddings"),
    "missing tensor": (lambda f: change(f, **{NORM: None}), f"'broken' has no tensor '{NORM}', which 'cpt' has"),
    "shape": (lambda f: change(f, **{NORM: torch.ones(32)}), r"has shape \[64\] in 'cpt' and \[32\] in 'broken'"),
    "nan": (
        lambda f: change(f, **{NORM: torch.full((64,), float("nan"))}),
        f"'broken' holds NaN or infinity in '{NORM}'",
    ),
    "infinity": (lambda f: change(f, **{NORM: torch.full((64,), -float("inf"))}), "'broken' holds NaN or infinity in"),
    "architecture": (lambda f: configure(f, model_type="qwen2"), "model_type is 'llama' and 'qwen2'"),
    "config no object": (lambda f: text(f, "config.json", "[]"), "config.json"),
    "config broken": (lambda f: text(f, "config.json", "{"), "cannot read '.*config.json'"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read '.*config.json'"),
    "tokenizer broken": (lambda f: text(f, "tokenizer.json", '{"model"'), "cannot read '.*tokenizer.json'"),
    "tokenizer empty": (lambda f: text(f, "tokenizer.json", "{}"), "is no tokenizer"),
    "tokenizer of another kind": (lambda f: text(f, "tokenizer.json", '{"model": {"vocab": 3}}'), "is no tokenizer"),
    "stranger": (stranger, "'base' and 'broken' are no relatives: on a sample, the cosine of their weights is -?0.0"),
    "gone": (shutil.rmtree, "is no folder"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("expression", [SUM.replace("instruct", "broken"), "ties(base, [cpt, broken], density=0.5)"])
def test_a_broken_input(family, tmp_path, kind, expression):
    damage, message = BROKEN[kind]
    broken = tmp_path / "broken"
    shutil.copytree(family.folders["instruct"], broken)
    damage(broken)
    models = [*places(family, "cpt", "base"), f"broken={broken}"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, errors = run(expression, *models, "-o", tmp_path / "out")
    assert code == 1
    assert len(errors.splitlines()) == 1, errors
    assert re.search(message, errors), errors
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (
            "ties(base, [cpt, instruct], densty=0.3)",
            "character 29: ties has no parameter 'densty'; did you mean 'density'?",
        ),
        ("tise(base, [cpt, instruct])", "character 1: there is no method 'tise'; did you mean 'ties'?"),
        ("cpt + 0.5 * (instruct - base", "character 29: "),
        ("cpt + 0.5 * (instrct - base)", "does not name 'instruct' (it names cpt, instrct, base)"),
        ("cpt + instruct + 0 * base", "sum to 2, not to 1"),
        ("cpt + 0.5 * (base - base)", "is given, but the expression does not name 'instruct'"),
    ],
)
def test_a_mistake_in_the_expression(family, tmp_path, expression, message):
    code, errors = run(expression, *places(family, "cpt", "instruct", "base"), "-o", tmp_path / "out")
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard-size", "many"], "'many' is no size; write for example 5GB or 500MB"),
        (["--vocabulary-from", "bas"], "vocabulary_from is 'bas', which"),
        (["cpt=elsewhere"], "'cpt' is given twice"),
        (["extra=somewhere"], "'extra=somewhere' is given, but the expression does not name 'extra'"),
        (["somewhere"], "'somewhere' is not of the form NAME=FOLDER"),
    ],
)
def test_a_mistake_in_the_options(family, tmp_path, options, message):
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), *options, "-o", tmp_path / "out")
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert message in errors


def test_a_stale_folder_is_left_alone(family, tmp_path):
    text(tmp_path, "model.safetensors", "stale")
    code, errors = run(SUM, *places(family, "cpt", "instruct", "base"), "-o", tmp_path)
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "is not empty; give a new folder, so that no stale file stays beside the result" in errors
    assert files(tmp_path) == {"model.safetensors": b"stale"}


def test_strangers_can_be_merged_on_request(family, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    stranger(folder)
    models = [*places(family, "cpt", "base"), f"other={folder}"]
    arguments = ["cpt + 0.5 * (other - base)", *models, "-o", tmp_path / "out"]
    assert run(*arguments)[0] == 1
    assert run(*arguments, "--unrelated") == (0, "")


def test_the_same_index_for_different_tokens_is_told(family, tmp_path):
    """`chatml` and `cpt` hold different tokens under two ids: matched by token, counted, never mixed."""
    out = tmp_path / "out"
    code, _ = run("cpt + 0.5 * (chatml - base)", *places(family, "cpt", "chatml", "base"), "-o", out)
    assert code == 0
    record = json.loads((out / "merge.json").read_text())
    assert (record["rows"]["appended"], record["rows"]["anchor_only"]) == (2, 20)
    cpt, found = family["cpt"], load_file(out / "model.safetensors")
    assert torch.equal(found["lm_head.weight"][384:404], cpt["lm_head.weight"][384:404])


# Verification.


INPUTS = ["cpt", "instruct", "base", "lora"]


@pytest.fixture
def merged(family, tmp_path):
    """A merged folder whose inputs may be changed."""
    for name in INPUTS:
        shutil.copytree(family.folders[name], tmp_path / name)
    models = [f"{name}={tmp_path / name}" for name in INPUTS]
    assert run(
        "cpt + 0.5 * (instruct - base) + 0.5 * lora", *models, "-o", tmp_path / "out", "--shard-size", "100kB"
    ) == (0, "")
    return tmp_path


def verify(folder) -> tuple[int, list[str]]:
    ran = CliRunner().invoke(app, ["verify", str(folder)])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, (ran.stderr if ran.exit_code else ran.stdout).splitlines()


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_what_is_as_it_was(merged):
    code, lines = verify(merged / "out")
    assert code == 0
    assert "21 tensors are as they were written" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == INPUTS
    assert all(line.endswith("is what was merged") for line in lines[1:])


def test_a_flipped_bit_of_the_output(merged):
    path = sorted((merged / "out").glob("*.safetensors"))[-1]
    flip(path)
    (name,) = [k for k, v in json.loads((merged / "out" / INDEX).read_text())["weight_map"].items() if v == path.name][
        -1:
    ]
    code, lines = verify(merged / "out")
    assert (code, len(lines)) == (1, 1)
    assert f"'{name}' has other bytes than when it was written" in lines[0]


@pytest.mark.parametrize("name", ["cpt", "base"])
def test_a_flipped_bit_of_an_input(merged, name):
    flip(merged / name / "model.safetensors")
    code, lines = verify(merged / "out")
    assert code == 1
    assert lines == [f"'{merged / name}' is not the '{name}' that was merged: its weights have changed since"]


def test_an_adapter_that_was_trained_on(merged):
    flip(merged / "lora" / "adapter_model.safetensors")
    code, lines = verify(merged / "out")
    assert code == 1
    assert lines == [f"'{merged / 'lora'}' is not the 'lora' that was merged: its weights have changed since"]


def test_an_input_that_is_gone(merged):
    shutil.rmtree(merged / "base")
    code, lines = verify(merged / "out")
    assert code == 0
    assert lines[3] == f"base: '{merged / 'base'}' is not here, not checked"


def test_an_output_that_is_not_whole(merged):
    path = sorted((merged / "out").glob("*.safetensors"))[0]
    path.unlink()
    code, lines = verify(merged / "out")
    assert (code, len(lines)) == (1, 1)
    assert f"names '{path.name}', which is missing" in lines[0]


def test_a_folder_that_no_merge_wrote(family):
    code, lines = verify(family.folders["base"])
    assert code == 1
    assert lines == [f"'{family.folders['base']}' has no merge.json, so it is no folder that a merge wrote"]
