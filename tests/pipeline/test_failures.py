"""Failures of the world outside: one line with the stage and the fix, and nothing that was finished is lost."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from toys import Count, Fail, make_graph, quiet

from adapt.errors import AdaptError
from adapt.pipeline import StoppedError, run, status
from adapt.pipeline.failures import explained

MEGABYTE = 1_000_000


@pytest.fixture
def small_disk(tmp_path_factory):
    """A file system of one megabyte."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def write_plain(folder: Path) -> None:
    (folder / "data").write_bytes(b"x" * 4 * MEGABYTE)


def write_safetensors(folder: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"w": numpy.zeros(MEGABYTE, dtype=numpy.float32)}, folder / "w.safetensors")


def write_numpy(folder: Path) -> None:
    import numpy

    numpy.save(folder / "w.npy", numpy.zeros(MEGABYTE))


def write_torch(folder: Path) -> None:
    import torch

    torch.save(torch.zeros(MEGABYTE), folder / "w.pt")


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word{index}": index for index in range(60_000)}, unk_token="word0")).save(
        str(folder / "tokenizer.json")
    )


def fill_to_the_brim(folder: Path) -> None:
    """Full only when the pipeline itself writes, after the stage."""
    with (folder / "data").open("wb", buffering=0) as file:
        file.write(b"x" * min(2 * MEGABYTE, shutil.disk_usage(folder).free))


@pytest.mark.parametrize(
    "write", [write_plain, write_safetensors, write_numpy, write_torch, write_tokenizer, fill_to_the_brim]
)
def test_a_full_disk_is_one_line_and_what_was_finished_stays(base, small_disk, write, monkeypatch):
    monkeypatch.setitem(Fail.errors, "write", write)
    runs = small_disk / write.__name__
    graph = make_graph(base, {"first": Count(), "second": Fail(how="write")}, runs=runs)
    display, _ = quiet()
    with pytest.raises(AdaptError) as caught:
        run(graph, display)
    line = str(caught.value)
    assert line.startswith("stage 'second': ")
    assert "the disk is full" in line or "could not be written whole" in line
    assert str(runs / "toy" / "second") in line
    assert "free" in line
    assert "\n" not in line
    assert [found.state for found in status(graph)] == ["done", "partial"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert {name: result.state for name, result in run(graph, display).stages.items()} == {
        "first": "kept",
        "second": "done",
    }


def test_a_limit_on_file_size_is_one_line(base, monkeypatch):
    monkeypatch.setitem(Fail.errors, "write", write_plain)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, limits[1]))
    try:
        with pytest.raises(AdaptError, match=r"^stage 's': a file grew larger than the file system or a limit"):
            run(make_graph(base, {"s": Fail(how="write")}), quiet()[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_too_many_open_files_is_one_line(base, monkeypatch):
    def open_all(folder):
        held = []
        while True:
            held.append(open(os.devnull))  # noqa: SIM115

    monkeypatch.setitem(Fail.errors, "open", open_all)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with pytest.raises(AdaptError, match=r"^stage 's': too many files are open"):
            run(make_graph(base, {"s": Fail(how="open")}), quiet()[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_out_of_memory_is_one_line(base, monkeypatch):
    import torch

    monkeypatch.setitem(Fail.errors, "torch", lambda folder: torch.empty(1 << 60, dtype=torch.uint8))
    monkeypatch.setitem(Fail.errors, "python", lambda folder: bytearray(1 << 62))
    for how in ("torch", "python"):
        with pytest.raises(AdaptError, match=r"^stage 's': out of memory: .*make the batch"):
            run(make_graph(base, {"s": Fail(how=how)}), quiet()[0])


def test_a_read_only_runs_folder_is_one_line(base):
    libc = ctypes.CDLL(None, use_errno=True)
    folder = base / "read-only"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 1, b"size=64k"):
        pytest.skip("a read-only file system cannot be mounted here")
    try:
        with pytest.raises(AdaptError, match=r"^recipe 'toy': the file system is read-only at '.*read-only"):
            run(make_graph(base, {"s": Count()}, runs=folder / "runs"), quiet()[0])
    finally:
        libc.umount2(os.fsencode(folder), 2)


def test_a_corrupt_shard_is_one_line(base, monkeypatch):
    def read(folder):
        from safetensors import safe_open

        (base / "w.safetensors").write_bytes(b"\xff" * 100)
        safe_open(base / "w.safetensors", "np")

    monkeypatch.setitem(Fail.errors, "read", read)
    with pytest.raises(AdaptError, match=r"^stage 's': a safetensors file is not whole .* fetch or make it again"):
        run(make_graph(base, {"s": Fail(how="read")}), quiet()[0])


def test_a_file_that_vanished_is_the_worlds_doing_but_one_of_our_own_is_ours(base):
    folder = base / "work"
    folder.mkdir()
    outside = FileNotFoundError(errno.ENOENT, "No such file or directory", str(base / "corpus.txt"))
    inside = FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / "state"))
    assert str(explained(outside, "stage 's'", folder)).endswith(
        "corpus.txt' cannot be read: No such file or directory"
    )
    assert explained(inside, "stage 's'", folder) is None
    assert explained(ValueError("a mistake"), "stage 's'", folder) is None


def test_an_error_behind_another_is_found_and_an_exit_code_is_kept(base):
    behind = ValueError("while saving")
    behind.__context__ = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert "the disk is full at '/data/x'" in str(explained(behind, "stage 's'", base))
    mistake = AdaptError("nothing would be trained")
    mistake.exit_code = 2
    found = explained(mistake, "stage 's'", base / "not" / "there")
    assert (str(found), found.exit_code) == ("stage 's': nothing would be trained", 2)


def test_ctrl_c_keeps_the_work_and_says_how_to_go_on(base, monkeypatch):
    monkeypatch.setitem(Fail.errors, "stop", lambda folder: signal.raise_signal(signal.SIGINT))
    with pytest.raises(StoppedError, match=r"stopped in stage 's'; its work so far is kept in '.*partial': run again"):
        run(make_graph(base, {"s": Fail(how="stop")}), quiet()[0])
    assert StoppedError.exit_code == 130
    (partial,) = base.rglob("*.partial")
    assert (partial / "work.txt").read_text() == "some work"
