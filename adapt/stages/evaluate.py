"""`kind: evaluate`: score models on suites, each against its own base, and say what was forgotten."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.checkpoints import ModelLocation, load_config, load_model, load_tokenizer, read_json
from adapt.evaluation.suites import AnySuite, BitsPerByteSuite, Candidate, Scores, Suite
from adapt.settings import Count
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext

if TYPE_CHECKING:
    from adapt.data.sources import Source

DEFAULT_BASE = "base"
FORGETTING = "forgetting"


class Evaluate(Stage):
    """Measure models on held-out text and questions, each with a 95% interval, each against its own base."""

    makes_model: ClassVar[bool] = False

    kind: Literal["evaluate"]
    """Score models."""

    models: tuple[str, ...] = Field(min_length=1)
    """The models to score, in the order of the tables: names under `models:` or of earlier stages."""

    suites: dict[str, AnySuite] = Field(min_length=1)
    """What to measure, by a name of your choice."""

    own_base: dict[str, str] = Field(default_factory=dict)
    """The model that each is compared with; for those not named here it is `base`, if `base` is among the models."""

    forgetting: str | None = None
    """The source of general text on which forgetting is measured: the rise of bits per byte over the own base."""

    window_bytes: Count | None = None
    """Bytes of text that a model sees at once when it predicts text. Default: 1024, or what fits every listed model."""

    def reads(self) -> Reads:
        """The models, and the sources of the suites and of the forgetting."""
        sources = [Reference(("suites", name, "source"), suite.source) for name, suite in self.suites.items()]
        if self.forgetting is not None:
            sources.append(Reference(("forgetting",), self.forgetting))
        models = tuple(Reference(("models", index), name) for index, name in enumerate(self.models))
        return Reads(models=models, sources=tuple(sources))

    def complaints(self, sources: Mapping[str, Source]) -> Iterator[Complaint]:
        """Names that must be among the stage's models, and models that stand there twice."""
        for index, name in enumerate(self.models):
            if name in self.models[:index]:
                yield Complaint(("models", index), f"'{name}' is listed twice")
        for name, base in self.own_base.items():
            for listed in (name, base):
                if listed not in self.models:
                    yield Complaint(("own_base", name), self._not_listed(listed))
        for name, suite in self.suites.items():
            borrowed = suite.borrows()
            if borrowed is not None and borrowed not in self.models:
                yield Complaint(("suites", name, "chat_template_from"), self._not_listed(borrowed))
        if self.forgetting is not None and not self._bases():
            yield Complaint(
                ("forgetting",), f"no model has a base to compare with; list '{DEFAULT_BASE}' or set own_base"
            )

    def _not_listed(self, name: str) -> str:
        return f"'{name}' is not among the models of this stage ({', '.join(self.models)})"

    def _bases(self) -> dict[str, str]:
        """The own base of each model that has one."""
        default = DEFAULT_BASE if DEFAULT_BASE in self.models else None
        bases = {name: self.own_base.get(name, default) for name in self.models}
        return {name: base for name, base in bases.items() if base is not None and base != name}

    def _general_suite(self) -> str | None:
        """The suite that measures forgetting: one that already predicts that source, else one of its own."""
        if self.forgetting is None:
            return None
        for name, suite in self.suites.items():
            if isinstance(suite, BitsPerByteSuite) and suite.source == self.forgetting:
                return name
        return FORGETTING

    def _all_suites(self) -> dict[str, Suite]:
        general = self._general_suite()
        if general is None or general in self.suites:
            return dict(self.suites)
        return {**self.suites, general: BitsPerByteSuite(kind="bits_per_byte", source=self.forgetting)}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Score one model after the other; those whose scores a killed run left behind are not scored again."""
        suites = self._all_suites()
        items = {name: suite.items(context.sources[suite.source]) for name, suite in suites.items()}
        setting = _Setting(
            suites, items, self._window(context.models), _templates(self.suites.values(), context.models)
        )
        scores: dict[str, dict[str, Scores]] = {}
        for name in self.models:
            path = context.folder / "scores" / f"{name}.json"
            if not path.exists():
                _save(path, _score_model(name, context, setting))
            scores[name] = {suite: Scores(**values) for suite, values in read_json(path).items()}
        metrics = self._metrics(setting, scores, context.seed)
        show(context, metrics)
        context.log.write("finish", models=metrics["models"])
        return metrics

    def _window(self, models: Mapping[str, ModelLocation]) -> int:
        """One window for all, so that all read the same text in the same pieces."""
        if self.window_bytes is not None:
            return self.window_bytes
        from adapt.evaluation.bits_per_byte import context_of, window_for

        return min(window_for(context_of(load_config(models[name]))) for name in self.models)

    def _metrics(self, setting: _Setting, scores: Mapping[str, Mapping[str, Scores]], seed: int) -> dict[str, Any]:
        from adapt.evaluation.comparison import compare, forgetting, summarise

        suites, bases, general = setting.suites, self._bases(), self._general_suite()
        values = {
            name: {suite: summarise(suites[suite], own, seed) for suite, own in scores[name].items()} for name in scores
        }
        compared = {
            name: {suite: compare(suites[suite], own, scores[base][suite], seed) for suite, own in scores[name].items()}
            for name, base in bases.items()
        }
        forgotten = {
            name: forgetting(values[name][general], values[base][general], compared[name][general])
            for name, base in bases.items()
            if general is not None
        }
        examples = [
            {"suite": name, **example}
            for name, suite in suites.items()
            for example in suite.examples(setting.items[name], {model: own[name] for model, own in scores.items()})
        ]
        return {
            "models": values,
            "own_base": bases,
            "comparison": compared,
            "forgetting": forgotten,
            "forgetting_source": self.forgetting,
            "window_bytes": setting.window_bytes,
            "examples": examples,
        }


@dataclass(frozen=True)
class _Setting:
    """What is the same for every model."""

    suites: Mapping[str, Suite]
    items: Mapping[str, Sequence[Any]]
    window_bytes: int
    chat_templates: Mapping[str, str | None]


def _templates(suites: Any, models: Mapping[str, ModelLocation]) -> dict[str, str | None]:
    names = {name for suite in suites if (name := suite.borrows()) is not None}
    return {name: load_tokenizer(models[name]).chat_template for name in sorted(names)}


def _score_model(name: str, context: StageContext, setting: _Setting) -> dict[str, Scores]:
    """All suites under one model, which is in memory only for that long."""
    import torch

    location = context.models[name]
    cuda = torch.cuda.is_available()
    model = load_model(location, dtype="auto" if cuda else torch.float32).eval().to("cuda" if cuda else "cpu")
    candidate = Candidate(name, model, load_tokenizer(location), setting.window_bytes, setting.chat_templates)
    scores: dict[str, Scores] = {}
    done = 0
    with context.display.progress(f"evaluate {name}", sum(map(len, setting.items.values()))) as task:
        for suite, items in setting.items.items():
            before = done
            scores[suite] = setting.suites[suite].score(
                candidate, items, lambda new, start=before: task.update(start + new)
            )
            done += len(items)
            own = scores[suite]
            value = sum(own.totals) / sum(own.weights)
            task.update(done, **{suite: value})
            context.log.write("score", model=name, suite=suite, metric=setting.suites[suite].metric, value=value)
    return scores


def _save(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write one model's scores whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump({suite: asdict(own) for suite, own in scores.items()}, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def show(context: StageContext, metrics: Mapping[str, Any]) -> None:
    """Print the scores with their intervals, and forgetting beside them."""
    suites = list(next(iter(metrics["models"].values())))
    forgotten = metrics["forgetting"]
    rows = [
        [name, *(_cell(values[suite]) for suite in suites), *([_percent(forgotten.get(name))] if forgotten else [])]
        for name, values in metrics["models"].items()
    ]
    columns = ["model", *suites, *(["forgetting"] if forgotten else [])]
    context.display.table(f"{context.stage}: scores with 95% intervals", columns, rows)
    won = [
        [name, metrics["own_base"][name], suite, f"{cell['win']}/{cell['tie']}/{cell['loss']}"]
        for name, compared in metrics["comparison"].items()
        for suite, cell in compared.items()
    ]
    if won:
        context.display.table("each against its own base", ["model", "base", "suite", "win/tie/loss"], won)


def _cell(score: Mapping[str, Any]) -> str:
    if score["metric"] == "exact_match":
        text = f"{score['value']:.0%} ({score['low']:.0%} to {score['high']:.0%})"
        return text + (" in prose" if score.get("form") == "prose" else "")
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _percent(forgotten: Mapping[str, float] | None) -> str:
    return "" if forgotten is None else f"{forgotten['percent']:+.1f}%"
