"""A small recipe over all kinds of stages, and a way to run `adapt` on it in a process that may die.

The process is a fork of the test's own, which has loaded the libraries already: a start costs milliseconds, so that
many deaths fit into a test. `python -m tests.faults.workshop FOLDER` makes the folder, to try things by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.conftest import ENGLISH, UKRAINIAN, make_model, make_tokenizer

RECIPE = """\
name: small
seed: 17
models:
  base: base
  instruct: instruct
data:
  target: {files: target.txt, held_out: 20%}
  general: {files: general.txt, held_out: 20%}
stages:
  grown:
    kind: expand_vocabulary
    model: base
    corpus: target
    add: 12
    init: mean_of_pieces
  cpt:
    kind: train
    model: grown
    mixture: {target: 0.6, general: 0.4}
    method: {kind: lora, r: 4, train_embeddings: new_rows}
    precision: fp32
    tokens: 1000
    sequence_length: 32
    batch_size: 2
    checkpoints: 6
    keep_checkpoints: 3
    evaluations: 2
    evaluation_bytes: 400
    report_to: []
    general: general
  chat:
    kind: merge
    expression: cpt + 0.5 * (instruct - base)
  release:
    kind: export
    model: cpt
    formats: [safetensors, adapter]
  scores:
    kind: evaluate
    models: [base, chat]
    suites:
      text: {kind: bits_per_byte, source: target, bytes: 400}
    forgetting: general
"""
ROOT = Path(__file__).parents[2]
STAGES = ("grown", "cpt", "chat", "release", "scores")
PATIENCE = 120.0
"""Seconds after which a command is said to hang."""


def make_workshop(folder: Path) -> Path:
    """A recipe, its models and its texts in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    write_texts(folder)
    tokenizer = make_tokenizer(ENGLISH)
    model = make_model(len(tokenizer), hidden_size=16, intermediate_size=32)
    for name in ("base", "instruct"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():  # the second one is of the first one's kin
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
    return folder


def write_texts(folder: Path) -> None:
    """The two corpora; no document stands in them twice."""
    for name, lines in (("target", UKRAINIAN), ("general", ENGLISH)):
        text = "\n".join(f"{number} {line}" for number, line in enumerate(lines))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


@dataclass
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it) and what it wrote."""

    code: int
    out: str
    err: str
    seconds: float
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = self.err.strip().splitlines()


def adapt(
    folder: Path,
    *arguments: str,
    first: Callable[[], object] = lambda: None,
    beside: Callable[[int], object] = lambda process: None,
    patience: float = PATIENCE,
) -> Ended:
    """Run `adapt ARGUMENTS` in `folder`, in a fork. `first` is done in it before, `beside` with its number meanwhile.

    Raises AssertionError where it hangs.
    """
    out, err = folder / ".out", folder / ".err"
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_a_command(folder, arguments, first, out, err)
    try:
        beside(child)
        code = _waited(child, began + patience)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    assert code is not None, f"adapt {' '.join(arguments)} hangs; it said: {err.read_text()[-2000:]}"
    return Ended(code, out.read_text(), err.read_text(), time.monotonic() - began)


def _waited(child: int, until: float) -> int | None:
    while time.monotonic() < until:
        done, state = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(state)
        time.sleep(0.002)
    return None


def _be_a_command(folder: Path, arguments: tuple[str, ...], first: Callable[[], object], out: Path, err: Path) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        first()
        from adapt.cli import app

        try:
            app(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def outcomes(folder: Path) -> dict[str, str]:
    """The hash over what each finished stage made."""
    manifests = (path for path in (folder / "runs" / "small").glob("*/*/manifest.json") if not path.parent.suffix)
    return {path.parts[-3]: json.loads(path.read_text())["outcome"] for path in manifests}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of the finished models."""
    files = (path for path in (folder / "runs" / "small").glob("*/*/model/*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def until(folder: Path, stages: tuple[str, ...], straight: Path) -> None:
    """Put what a straight run made of these stages into `folder`, as if it had been run so far."""
    for name in stages:
        shutil.copytree(straight / "runs" / "small" / name, folder / "runs" / "small" / name)


def partial(folder: Path, stage: str) -> Path:
    """The unfinished folder of a stage."""
    (found,) = (folder / "runs" / "small" / stage).glob("*.partial")
    return found


def finished(folder: Path, stage: str) -> Path:
    """The finished folder of a stage."""
    (found,) = (path for path in (folder / "runs" / "small" / stage).iterdir() if not path.suffix)
    return found


def wait_for_stage(folder: Path, stage: str, pattern: str = "started.json", count: int = 1) -> None:
    """Until a stage's unfinished folder holds so many files of a pattern."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if len(list((folder / "runs" / "small" / stage).glob(f"*.partial/{pattern}"))) >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"stage '{stage}' never came to {pattern}")


if __name__ == "__main__":
    print(make_workshop(Path(sys.argv[1])))
