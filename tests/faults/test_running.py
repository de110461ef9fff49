"""What goes wrong while a run is under way: a disk that fills up, a loss that is no number, a text that changes."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.faults.workshop import ROOT, Ended, adapt, outcomes, partial, wait_for_stage

slow = pytest.mark.slow


def ended_with(ended: Ended, code: int, *parts: str) -> None:
    """One line, with these parts in it."""
    assert len(ended.lines) == 1, ended.err
    assert all(part in ended.lines[0] for part in parts), ended.lines[0]
    assert ended.code == code


def goes_on(folder: Path, straight: Path, *arguments: str, until: str = "scores") -> Ended:
    """The next run ends well, in the straight run's bytes."""
    ended = adapt(folder, "run", "recipe.yaml", "--until", until, *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert outcomes(folder)[until] == outcomes(straight)[until]
    assert outcomes(folder).items() <= outcomes(straight).items()
    return ended


@slow
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_cut_in_half_is_left_for_the_one_before(name, shop, straight):
    folder = shop(before="cpt")

    def kill(process: int) -> None:
        wait_for_stage(folder, "cpt", "checkpoints/checkpoint-*/state.json", count=2)
        os.kill(process, signal.SIGKILL)

    assert adapt(folder, "run", "recipe.yaml", beside=kill).code == -signal.SIGKILL
    states = sorted((partial(folder, "cpt") / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    os.truncate(states[-1] / name, (states[-1] / name).stat().st_size // 2)
    ended = goes_on(folder, straight, until="cpt")
    assert f"removed '{states[-1].name}', whose files are damaged" in ended.out
    assert "going on from step " in ended.out


def test_a_loss_that_is_no_number_names_the_texts_and_keeps_the_checkpoint(shop):
    folder = shop(before="cpt")
    recipe = folder / "recipe.yaml"
    steep = "schedule: {kind: rewarm_cosine, peak: 1e8, warmup: 90%}\n    tokens:"
    recipe.write_text(recipe.read_text().replace("tokens:", steep).replace("checkpoints: 6", "checkpoints: 20"))
    ended = adapt(folder, "run", "recipe.yaml")
    ended_with(
        ended, 1, "stage 'cpt': the ", " at step ", " on rows ", '"', "lower schedule.peak, or set precision: fp32"
    )
    found = re.search(r"at step (\d+) .*the last good checkpoint is '(.+/checkpoint-(\d+))'", ended.err)
    step, kept, last = found.groups()
    assert int(last) < int(step)
    assert all(np.isfinite(tensor).all() for tensor in load_file(folder / kept / "weights.safetensors").values())
    again = adapt(folder, "run", "recipe.yaml")
    assert f"going on from step {last} " in again.out
    assert again.err == ended.err


@slow
def test_weights_that_are_no_numbers_are_not_kept(shop):
    """A base with a NaN in a weight of the last layer: the loss is NaN at once, and no state is written."""
    folder = shop(before="grown")
    tensors = load_file(folder / "base" / "model.safetensors")
    next(value for name, value in tensors.items() if "layers.1.mlp" in name)[0, 0] = float("nan")
    save_file(tensors, folder / "base" / "model.safetensors", metadata={"format": "pt"})
    ended = adapt(folder, "run", "recipe.yaml", "--until", "cpt")
    assert len(ended.lines) == 1, ended.err
    assert "Traceback" not in ended.err
    assert ended.code == 1
    assert not list((folder / "runs").rglob("checkpoint-*"))


@slow
def test_a_text_that_changes_while_the_recipe_runs(shop, straight):
    """Between two stages, and while the stage that reads it is at work."""
    for stage in ("grown", "cpt"):
        folder = shop(before=stage)
        text = folder / "target.txt"
        old = text.read_bytes()

        def change(process: int, folder=folder, stage=stage, text=text, old=old) -> None:
            wait_for_stage(folder, stage)
            text.write_bytes(old + "\nще один рядок".encode())

        ended = adapt(folder, "run", "recipe.yaml", "--until", "cpt", beside=change)
        ended_with(ended, 1, f"stage '{stage}': ", "target", "changed while ", "run again")
        assert stage not in outcomes(folder)
        text.write_bytes(old)
        goes_on(folder, straight, until=stage)


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system of so many bytes, or gives it more; read-only on request."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")

    def remount(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
        return folder

    yield remount
    subprocess.run(["umount", "-l", folder], check=True)


@slow
@pytest.mark.parametrize("kilobytes", [16, 60, 150, 300, 500, 700])
def test_a_disk_that_fills_up_anywhere(kilobytes, shop, straight, disk):
    """Room for ever more of the run; then the disk gets larger and the run goes on."""
    folder, runs = shop(), disk(f"size={kilobytes}k")
    ended = adapt(folder, "run", "recipe.yaml", "--set", f"runs={runs}")
    assert ended.code == 1, ended.out
    ended_with(ended, 1)
    assert re.search(r"disk is full|could not be written whole|No space left|needs .* free", ended.err), ended.err
    disk("size=64m")
    again = adapt(folder, "run", "recipe.yaml", "--set", f"runs={runs}")
    assert (again.code, again.err) == (0, "")


@slow
def test_a_file_system_that_is_read_only(shop, straight, disk):
    folder, runs = shop(), disk("ro")
    ended = adapt(folder, "run", "recipe.yaml", "--set", f"runs={runs}", "--until", "grown")
    ended_with(ended, 1, "recipe 'small': the file system is read-only at '")
    disk("rw")
    assert adapt(folder, "run", "recipe.yaml", "--set", f"runs={runs}", "--until", "grown").code == 0


@slow
def test_two_runs_at_once(shop, straight):
    folder = shop(before="cpt")
    other: list[Ended] = []

    def beside(process: int) -> None:
        wait_for_stage(folder, "cpt")
        os.kill(process, signal.SIGSTOP)
        other.append(adapt(folder, "run", "recipe.yaml"))
        os.kill(process, signal.SIGCONT)

    ended = adapt(folder, "run", "recipe.yaml", "--until", "cpt", beside=beside)
    assert ended.code == 0
    ended_with(other[0], 1, "recipe 'small' is being run by process ", "; wait for it or stop it")
    assert outcomes(folder)["cpt"] == outcomes(straight)["cpt"]


@slow
@pytest.mark.parametrize("megabytes", [1, 30, 80])
def test_too_little_memory(megabytes, shop, straight):
    """The process may map so much more than it has mapped already."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + megabytes * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    folder = shop(before="cpt")
    wide = ("--set", "stages.cpt.batch_size=4000", "--set", "stages.cpt.tokens=200k")
    ended = adapt(folder, "run", "recipe.yaml", "--until", "cpt", *wide, first=limit)
    ended_with(ended, 1, "stage 'cpt': out of memory")
    goes_on(folder, straight, until="cpt")


@slow
def test_a_tokenizer_without_a_pad_token_trains(shop):
    folder = shop()
    for name in ("base", "instruct"):
        path = folder / name / "tokenizer_config.json"
        text = re.sub(r'\s*"pad_token": "[^"]*",?', "", path.read_text())
        assert "pad_token" not in text
        path.write_text(re.sub(r",(\s*})", r"\1", text))
    ended = adapt(folder, "run", "recipe.yaml")
    assert (ended.code, ended.err) == (0, "")


@slow
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_be_reached(offline, shop, straight):
    """A real command: the hub's library reads its settings when it is loaded."""
    folder = shop()
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("base: base", "base: someone/some-model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": endpoint,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(folder / "hf"),
    }
    for command in ("check", "run"):
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "adapt", command, "recipe.yaml"],
            cwd=folder,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        ended = Ended(ran.returncode, ran.stdout, ran.stderr, time.monotonic() - began)
        if command == "run":
            ended_with(
                ended, 1, "model 'base': model 'someone/some-model@main' is neither a folder nor in the local hub cache"
            )
        else:
            assert (ended.code, ended.err) == (0, "")
    recipe.write_text(recipe.read_text().replace("base: someone/some-model", "base: base"))
    goes_on(folder, straight, until="grown")
