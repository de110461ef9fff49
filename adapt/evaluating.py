"""Scores models without a recipe: what `adapt eval` does, from Python as well.

adapt.evaluate(["runs/mine/chat"], base="Qwen/Qwen3-0.6B", text=["uk.txt"], items=["asked.jsonl"])
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.checkpoints import ModelLocation, load_tokenizer
from adapt.display import Display
from adapt.errors import AdaptError
from adapt.evaluation.asked import Asked
from adapt.evaluation.scoring import Evaluation, device_and_format
from adapt.loading import FoundModel, find_model
from adapt.pipeline.folders import write_json
from adapt.recipe import load as load_recipe
from adapt.recipe.compose import graph_of, location
from adapt.recipe.models import stage_of_recipe
from adapt.recipe.schema import ModelSettings
from adapt.stages.evaluate import Evaluate

RESULT = "evaluation.json"


@dataclass(frozen=True)
class Request:
    """Which models are scored, on what, and against which base.

    `text`: files whose bits per byte are measured. `items`: files of questions. `suites`: names of harness tasks, or
    `recipe.yaml#stage` for the suites of an evaluate stage. `general`: text on which forgetting is measured.
    """

    models: tuple[str, ...]
    text: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    task_folder: str | None = None
    base: str | None = None
    general: str | None = None
    limit: int | None = None
    bytes: int = 100_000
    seed: int = 17

    def run(self, display: Display) -> dict[str, Any]:
        """The numbers, in the form of an evaluate stage's. Raises AdaptError before anything long for what is wrong."""
        if self.general is not None and self.base is None:
            raise AdaptError("--general measures what was forgotten against a base; give it with --base MODEL")
        asked, templates = self._asked()
        if not asked.suites:
            raise AdaptError("nothing to measure; give --text FILE, --items FILE.jsonl or --suite NAME")
        found = self._found()
        first = next(iter(found))
        evaluation = Evaluation(
            models=tuple(found),
            suites=asked.suites,
            sources=asked.sources,
            window_bytes=_window(found),
            bases={name: first for name in found if name != first} if self.base is not None else {},
            forgetting=asked.general,
            chat_templates=templates,
            seed=self.seed,
        )
        with tempfile.TemporaryDirectory() as kept:
            return evaluation.run(lambda name: _loaded(found[name]), Path(kept), display)

    def _found(self) -> dict[str, FoundModel]:
        """The models by short names, the base first: all are looked up before one is loaded."""
        names = list(dict.fromkeys([*([self.base] if self.base else []), *self.models]))
        short = [Path(name.rpartition("#")[2]).name for name in names]
        labels = short if len(set(short)) == len(names) else names
        return {label: find_model(name) for label, name in zip(labels, names, strict=True)}

    def _asked(self) -> tuple[Asked, dict[str, str | None]]:
        asked, templates = Asked(), {}
        for file in self.text:
            asked.add_text(file, self.bytes)
        for file in self.items:
            asked.add_items(file, self.limit)
        for name in self.suites:
            other = stage_of_recipe(ModelSettings(path=name), Path("recipe.yaml"))
            if other is not None:
                templates |= _of_stage(asked, other.file, other.stage)
            else:
                asked.add_task(name, self.task_folder, self.limit)
        if self.general is not None:
            asked.general = asked.add_text(self.general, self.bytes)
        return asked, templates


def evaluate(models: Sequence[str | Path] | str, display: Display | None = None, **options: Any) -> dict[str, Any]:
    """Score models; `options` are the fields of `Request`. Returns the numbers of an evaluate stage's manifest."""
    several = (models,) if isinstance(models, str) else tuple(map(str, models))
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return Request(several, **plain).run(display or Display())


def _window(found: Mapping[str, FoundModel]) -> int:
    """One window for all, so that all read the same text in the same pieces."""
    from adapt.evaluation.bits_per_byte import window_for

    return min(window_for(model.context()) for model in found.values())


def _loaded(found: FoundModel) -> tuple[Any, Any]:
    device, dtype = device_and_format()
    model, tokenizer = found.load(dtype)
    return model.to(device), tokenizer


def _of_stage(asked: Asked, file: Path, name: str) -> dict[str, str | None]:
    """Take over the suites and sources of a recipe's evaluate stage; returns the chat templates that they borrow."""
    loaded = load_recipe(file)
    graph = graph_of(loaded)
    stage = graph.stage(name)
    if not isinstance(stage, Evaluate):
        raise AdaptError(f"--suite {file}#{name}: stage '{name}' does not evaluate; name one of kind evaluate")
    asked.suites |= stage.suites
    asked.sources |= {source: graph.sources[source] for source in graph.input_sources(name)}
    templates = {}
    for model in filter(None, (suite.borrows() for suite in stage.suites.values())):
        place = graph.models.get(model) or location(model, ModelSettings(path=f"{file}#{model}"), Path("recipe.yaml"))
        templates[model] = load_tokenizer(ModelLocation(place.path, place.revision)).chat_template
    return templates


def write(folder: Path, request: Request, metrics: Mapping[str, Any]) -> None:
    """Write `evaluation.json` and the page `report.html` with its plots into a folder."""
    from adapt.report.page import PAGE, write_page
    from adapt.report.records import Record

    manifest = {"kind": "evaluate", "settings": asdict(request), "seed": request.seed, "metrics": dict(metrics)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULT, manifest)
    write_page(folder / PAGE, "evaluation", [Record("scores", folder, "finished", manifest)])
