"""SIGKILL at drawn moments of a whole recipe, and Ctrl-C in each kind of stage: the next run ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from adapt.pipeline.hashes import HashCache
from adapt.pipeline.manifest import read_manifest, verify
from tests.faults.workshop import STAGES, adapt, contents, make_workshop, outcomes, partial

EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "open"}
"""Operations on files of which Python tells; those of the libraries in Rust and C++ lie between them."""


def at_operation(number: int, act: Callable[[], object], place: str = "runs") -> Callable[[], None]:
    """Something to do right before the process's `number`-th operation on a file of the run, or of a `place` in it."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in EVENTS and place in str(arguments[0]):
            count += 1
            if count == number:
                act()

    return lambda: sys.addaudithook(hook)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill_after(seconds: float) -> Callable[[int], None]:
    def beside(process: int) -> None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)

    return beside


class Measured(NamedTuple):
    """How many operations and seconds a straight run takes."""

    operations: int
    seconds: float


@pytest.fixture(scope="module")
def measured(straight, tmp_path_factory) -> Measured:
    folder = make_workshop(tmp_path_factory.mktemp("measured"))
    counted = folder / "counted"

    def count() -> None:
        descriptor = os.open(counted, os.O_WRONLY | os.O_CREAT)

        def hook(event: str, arguments: tuple) -> None:
            if event in EVENTS and "runs" in str(arguments[0]):
                os.write(descriptor, b".")

        sys.addaudithook(hook)

    ended = adapt(folder, "run", "recipe.yaml", first=count)
    assert (ended.code, ended.err) == (0, "")
    assert outcomes(folder) == outcomes(straight), "two straight runs do not make the same bytes"
    return Measured(counted.stat().st_size, ended.seconds)


def check_whole(folder: Path) -> None:
    """What looks finished is: every file has the bytes that its manifest says."""
    for stage in (folder / "runs" / "small").glob("*/*"):
        if stage.is_dir() and not stage.suffix:
            verify(stage, read_manifest(stage), HashCache(folder / "none"))


def check_same(folder: Path, straight: Path) -> None:
    """All stages are finished with the straight run's bytes, and nothing unfinished is left."""
    assert outcomes(folder) == outcomes(straight)
    assert contents(folder) == contents(straight)
    assert not [path for path in (folder / "runs" / "small").glob("*/*") if path.is_dir() and path.suffix]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_sigkill_at_a_drawn_moment_and_again_while_it_goes_on(number, shop, straight, measured):
    """Even numbers die before a drawn file operation, odd ones after a drawn time; every third dies twice."""
    draw = random.Random(number)
    folder = shop()
    for _ in range(2 if number % 3 == 0 else 1):
        if number % 2 == 0:
            moment = draw.randint(1, measured.operations)
            ended = adapt(folder, "run", "recipe.yaml", first=at_operation(moment, die))
        else:
            ended = adapt(folder, "run", "recipe.yaml", beside=kill_after(draw.random() * measured.seconds))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        assert ended.err == ""
        check_whole(folder)
    ended = adapt(folder, "run", "recipe.yaml")
    assert (ended.code, ended.err) == (0, "")
    check_same(folder, straight)


@pytest.mark.parametrize(
    "stage", [pytest.param(name, marks=[] if name == "cpt" else pytest.mark.slow) for name in STAGES]
)
@pytest.mark.parametrize("begun", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ctrl_c_is_a_clean_stop_in_each_kind_of_stage(stage, begun, shop, straight):
    """Before the stage's folder is made, and at a drawn operation on its files (the shortest stage has 38)."""
    folder = shop(before=stage)
    moment = random.Random(stage).randint(4, 30) if begun else 2
    pressed = at_operation(moment, press_ctrl_c, place=f"runs/small/{stage}/")
    ended = adapt(folder, "run", "recipe.yaml", first=pressed)
    kept = " before it began"
    if begun:
        kept = f"; its work so far is kept in '{partial(folder, stage).relative_to(folder)}'"
    assert ended.lines == [f"stopped in stage '{stage}'{kept}: run again to go on"]
    assert ended.code == 130
    check_whole(folder)
    assert adapt(folder, "run", "recipe.yaml").code == 0
    check_same(folder, straight)
