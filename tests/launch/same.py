"""That runs in different numbers of processes are the same to float32's accuracy."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.worker import together, train

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")


def events(folder: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def assert_same(found: Path, expected: Path, atol: float = 2e-6) -> None:
    """The weights, to `atol`, and the course of the run, to float32's accuracy."""
    left, right = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert left.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=atol, msg=name)
    courses = [events(folder, "train") for folder in (found, expected)]
    assert [line["step"] for line in courses[0]] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(*courses, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    measured = [[line["general"] for line in events(folder, "evaluation")] for folder in (found, expected)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def assert_alike(found: Path, expected: Path) -> None:
    """Nearly the same weights. Products with 4-bit weights are in bf16, so where the last bit of a float32 differs, a
    last bit of bf16 may."""
    left, right = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert left.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=5e-4, msg=name)
    losses = [[line["loss"] for line in events(folder, "train")] for folder in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def compare(base: Path, folder: Path, jobs: dict[str, tuple[str, str]], atol: float = 2e-6) -> None:
    together(base, folder, *(f"{name}:{method}:{strategy}:all" for name, (method, strategy) in jobs.items()))
    for method in sorted({method for method, _ in jobs.values()}):
        train(base, folder / f"alone-{method}", method)
    for name, (method, _) in jobs.items():
        assert_same(folder / name, folder / f"alone-{method}", atol)
