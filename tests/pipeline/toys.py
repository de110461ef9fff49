"""Small real stages for the pipeline's tests, and a command line to run them in a process of their own.

`python toys.py RUNS CORPUS STEPS PAUSE`
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console

from adapt.display import Display
from adapt.pipeline import Graph, run
from adapt.settings import Settings
from adapt.stages.base import Reads, Reference, Stage, StageContext


class TextFile(Settings):
    """A source: one file."""

    key: ClassVar[str] = "path"
    path: str

    def fingerprint(self) -> str:
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def expecting(self, fingerprint: str) -> TextFile:
        return self


def write_model(folder: Path, text: str) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "weights.txt").write_text(text)


class Count(Stage):
    """Reads a corpus and writes what it counted."""

    kind: Literal["count"] = "count"
    corpus: str = "corpus"
    scale: int = 1
    note: str = ""
    unkeyed: ClassVar[frozenset[str]] = frozenset({"note"})

    def reads(self) -> Reads:
        return Reads(sources=(Reference(("corpus",), self.corpus),))

    def run(self, context: StageContext) -> dict[str, Any]:
        words = Path(context.sources[self.corpus].path).read_text().split()
        write_model(context.folder, str(len(words) * self.scale))
        return {"words": len(words)}


class Steps(Stage):
    """Works in steps; each leaves a file, and the next builds on the last that is there."""

    kind: Literal["steps"] = "steps"
    model: str
    steps: int = 4
    pause: float = 0.0
    unkeyed: ClassVar[frozenset[str]] = frozenset({"pause"})

    def reads(self) -> Reads:
        return Reads(models=(Reference(("model",), self.model),))

    def run(self, context: StageContext) -> dict[str, Any]:
        state = Path(context.models[self.model].path, "weights.txt").read_text() + str(context.seed)
        for step in range(self.steps):
            path = context.folder / f"step-{step}"
            if not path.exists():
                time.sleep(self.pause)
                path.with_suffix(".tmp").write_text(hashlib.sha256(state.encode()).hexdigest())
                os.replace(path.with_suffix(".tmp"), path)
                context.log.write("step", step=step)
            state = path.read_text()
        write_model(context.folder, state)
        return {"steps": self.steps, "general": {"start": 2.5, "end": 1.25}}


class Score(Stage):
    """Reads several models and makes none."""

    kind: Literal["score"] = "score"
    models: tuple[str, ...]
    makes_model: ClassVar[bool] = False

    def reads(self) -> Reads:
        return Reads(models=tuple(Reference(("models", index), name) for index, name in enumerate(self.models)))

    def run(self, context: StageContext) -> dict[str, Any]:
        texts = {name: Path(context.models[name].path, "weights.txt").read_text() for name in self.models}
        (context.folder / "scores.json").write_text(json.dumps(texts))
        return {"bits_per_byte": float("nan")}


class Fail(Stage):
    """Raises what it is told to, while a function in `errors` stands for the world outside."""

    kind: Literal["fail"] = "fail"
    how: str
    makes_model: ClassVar[bool] = False
    errors: ClassVar[dict[str, Any]] = {}

    def reads(self) -> Reads:
        return Reads()

    def run(self, context: StageContext) -> dict[str, Any]:
        (context.folder / "work.txt").write_text("some work")
        self.errors[self.how](context.folder)
        return {}


def make_graph(folder: Path, stages: dict[str, Stage], **changes: Any) -> Graph:
    """A graph with one source, `corpus`, that lies beside the runs."""
    parts = {"recipe": "toy", "seed": 17, "runs": folder / "runs", "models": {}}
    return Graph(**(parts | changes), sources={"corpus": TextFile(path=str(folder / "corpus.txt"))}, stages=stages)


def three_stages(steps: int = 4, pause: float = 0.0, **count: Any) -> dict[str, Stage]:
    return {
        "counted": Count(**count),
        "stepped": Steps(model="counted", steps=steps, pause=pause),
        "scores": Score(models=("counted", "stepped")),
    }


def quiet() -> tuple[Display, io.StringIO]:
    """A display that keeps what it shows."""
    text = io.StringIO()
    return Display(Console(file=text, width=200, highlight=False)), text


if __name__ == "__main__":
    base = Path(sys.argv[1])
    run(make_graph(base, three_stages(int(sys.argv[2]), float(sys.argv[3]))), Display())
