"""`kind: evaluate`: score models on suites, each against its own base, and say what was forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from adapt.checkpoints import ModelLocation, load_config, load_tokenizer
from adapt.evaluation.suites import AnySuite
from adapt.mixture.references import Named, location_of, named, plain_location
from adapt.settings import Count
from adapt.stages.base import Complaint, Reads, Reference, Stage, StageContext

if TYPE_CHECKING:
    from adapt.data.sources import Source

DEFAULT_BASE = "base"


class Evaluate(Stage):
    """Measure models on held-out text and questions, each with a 95% interval, each against its own base."""

    makes_model: ClassVar[bool] = False

    kind: Literal["evaluate"]
    """Score models."""

    models: tuple[str, ...] = Field(min_length=1)
    """The models to score, in the order of the tables: names under `models:` or of earlier stages, or a part of such a
    stage as it computes: its adapter over its base (`cpt/adapter`), its mixture with its gates (`gates/mixture`)."""

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
        read = {name: suite.reads() for name, suite in self.suites.items()}
        sources = [Reference(("suites", name, "source"), source) for name, source in read.items() if source is not None]
        if self.forgetting is not None:
            sources.append(Reference(("forgetting",), self.forgetting))
        found = ((index, named(name) or Named(name)) for index, name in enumerate(self.models))
        models = tuple(Reference(("models", index), each.name, each.part) for index, each in found)
        return Reads(models=models, sources=tuple(sources))

    def files(self) -> Iterator[Path]:
        """What the suites name."""
        return (path for suite in self.suites.values() for path in suite.files())

    def relative_to(self, folder: Path) -> Evaluate:
        """The stage with what its suites name and is not here taken from `folder`."""
        return self.model_copy(update={"suites": {name: own.relative_to(folder) for name, own in self.suites.items()}})

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
            for key, message in suite.complaints():
                yield Complaint(("suites", name, key), message)
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

    def run(self, context: StageContext) -> dict[str, Any]:
        """Score one model after the other; those whose scores a killed run left behind are not scored again."""
        from adapt.evaluation.metrics import show
        from adapt.evaluation.scoring import Evaluation

        models = {name: location_of(name, context.models, context.upstream) for name in self.models}
        evaluation = Evaluation(
            models=self.models,
            suites=self.suites,
            sources=context.sources,
            window_bytes=self._window(models),
            bases=self._bases(),
            forgetting=self.forgetting,
            chat_templates=self._templates(models),
            seed=context.seed,
        )
        metrics = evaluation.run(
            lambda name: _load(models[name]), context.folder / "scores", context.display, context.log
        )
        show(context.stage, metrics, context.display)
        context.log.write("finish", models=metrics["models"])
        return metrics

    def _window(self, models: Mapping[str, ModelLocation]) -> int:
        """One window for all, so that all read the same text in the same pieces."""
        if self.window_bytes is not None:
            return self.window_bytes
        from adapt.evaluation.bits_per_byte import context_of, window_for

        return min(window_for(context_of(load_config(plain_location(models[name])))) for name in self.models)

    def _templates(self, models: Mapping[str, ModelLocation]) -> dict[str, str | None]:
        names = {name for suite in self.suites.values() if (name := suite.borrows()) is not None}
        return {name: load_tokenizer(plain_location(models[name])).chat_template for name in sorted(names)}


def _load(location: ModelLocation) -> tuple[Any, Any]:
    from adapt.evaluation.scoring import device_and_format
    from adapt.mixture.live import load_live

    device, dtype = device_and_format()
    model, tokenizer = load_live(location, dtype)
    return model.to(device), tokenizer
