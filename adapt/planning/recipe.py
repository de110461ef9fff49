"""The plan of a whole recipe: every stage's memory, tokens, time and disk, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.methods.outline import UnplannedError
from adapt.planning import others, writing
from adapt.planning.advice import Advice, advice
from adapt.planning.configs import config_of
from adapt.planning.gpus import Gpu, usable
from adapt.planning.memory import Memory
from adapt.planning.sketch import Vocabulary
from adapt.planning.time import Duration, duration_of
from adapt.planning.tokens import Budget, budget_of
from adapt.planning.train import TrainPlan, plan_train

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapt.data.sources import Source
    from adapt.stages.base import Stage

Verdict = str
_NOT_YET = ModelLocation("(not made yet)")


@dataclass(frozen=True)
class Model:
    """What is known of a model that a stage reads: its configuration, its vocabulary, and where it lies, if it does."""

    config: PretrainedConfig
    words: Vocabulary
    location: ModelLocation


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes. `host` is main memory, `disk` what stays in its folder, `scratch` what is there meanwhile.

    `verdict` is `fits`, `does not fit`, or empty where no GPU is named or the stage needs none. `note` says why there
    is no estimate, where there is none.
    """

    name: str
    kind: str
    memory: Memory | None = None
    trainable: Mapping[str, float] | None = None
    budget: Budget | None = None
    duration: Duration | None = None
    host: int = 0
    disk: int = 0
    scratch: int = 0
    verdict: Verdict = ""
    advice: Advice | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "verdict": self.verdict, "note": self.note}
        found |= {"host": self.host, "disk": self.disk, "scratch": self.scratch}
        found["memory"] = self.memory.as_dict() if self.memory else None
        found["trainable"] = dict(self.trainable) if self.trainable else None
        found["budget"] = vars(self.budget) if self.budget else None
        found["time"] = vars(self.duration) if self.duration else None
        if self.advice:
            sets = [f"stages.{self.name}.{change}" for change in self.advice.sets]
            found["advice"] = {"set": sets, "cost": self.advice.cost, "peak": self.advice.peak}
        return found


@dataclass(frozen=True)
class RecipePlan:
    """The plans of a recipe's stages, in their order, for a device."""

    recipe: str
    device: str
    gpu: Gpu | None
    stages: tuple[StagePlan, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether no stage is known not to fit."""
        return all(stage.verdict != "does not fit" for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        gpu = {"name": self.gpu.name, "memory": self.gpu.memory, "usable": usable(self.gpu)} if self.gpu else None
        stages = [stage.as_dict() for stage in self.stages]
        return {"recipe": self.recipe, "device": self.device, "gpu": gpu, "fits": self.fits, "stages": stages}


@dataclass
class Planner:
    """Goes through a recipe's stages in order, and carries what each makes of a model to those that read it."""

    stages: Mapping[str, Stage]
    locations: Mapping[str, ModelLocation]
    sources: Mapping[str, Source]
    gpu: Gpu | None
    device: str
    throughput: float | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)

    def plans(self) -> tuple[StagePlan, ...]:
        """All stages. Raises AdaptError for a model whose shape is not known."""
        return tuple(self._stage(name, stage) for name, stage in self.stages.items())

    def model(self, name: str) -> Model:
        """A model of the recipe, or what an earlier stage makes."""
        if name not in self.models:
            if name not in self.locations:
                raise AdaptError(f"nothing in the recipe makes a model '{name}'")
            location = self.locations[name]
            config = config_of(location)
            self.models[name] = Model(config, Vocabulary(config.vocab_size, others.new_pieces(location)), location)
        return self.models[name]

    def _stage(self, name: str, stage: Stage) -> StagePlan:
        kind = str(getattr(stage, "kind", type(stage).__name__))
        try:
            planned = self._train(name, stage) if kind == "train" else self._other(name, kind, stage)
        except UnplannedError as error:
            planned = StagePlan(name, kind, budget=budget_of(stage, self.sources), note=str(error))
        if stage.makes_model:
            self.models[name] = self._made(kind, stage)
        return planned

    def _made(self, kind: str, stage: Stage) -> Model:
        """What a stage makes of what it reads: a folder that is not there yet."""
        if kind == "create_model":
            config = others.created(stage)
            return Model(config, Vocabulary(config.vocab_size), _NOT_YET)
        names = [reference.name for reference in stage.reads().models]
        known = [self.model(name) for name in names if name in self.locations or name in self.models]
        if not known:
            raise AdaptError(f"a stage of kind '{kind}' reads no model whose shape is known")
        base = max(known, key=lambda model: model.words.height) if kind == "merge" else known[0]
        words = others.grown(stage, base.words) if kind == "expand_vocabulary" else base.words
        return Model(base.config, words, _NOT_YET)

    def _train(self, name: str, stage: Any) -> StagePlan:
        model = self.model(stage.model)
        bf16 = self._bf16(stage, model.config)

        def plan(other: Any) -> TrainPlan:
            return plan_train(other, model.config, model.words, model.location, self.device, bf16)

        made, budget = plan(stage), budget_of(stage, self.sources)
        duration = duration_of(made, budget, self.gpu, self.throughput, self.speeds.get(name))
        verdict, found = "", None
        if self.gpu is not None:
            verdict = "fits" if made.memory.peak <= usable(self.gpu) else "does not fit"
            found = advice(stage, plan, usable(self.gpu), self.device) if verdict != "fits" else None
        disk, scratch = others.train_disk(made)
        host = max(made.memory.host, writing.trained(made))
        return StagePlan(
            name, "train", made.memory, made.trainable, budget, duration, host, disk, scratch, verdict, found
        )

    def _bf16(self, stage: Any, config: PretrainedConfig) -> bool:
        from adapt.training.precision import choose

        if stage.precision != "auto":
            return stage.precision == "bf16"
        return True if self.gpu is not None else choose("auto", config.hidden_size).bf16

    def _other(self, name: str, kind: str, stage: Stage) -> StagePlan:
        if kind == "create_model":
            made = self._made(kind, stage)
            size = writing.checkpoint_bytes(made.config, made.words)
            return StagePlan(name, kind, host=others.create(made.config, made.words), disk=size)
        models = [self.model(reference.name) for reference in stage.reads().models]
        sizes = [writing.checkpoint_bytes(model.config, model.words) for model in models]
        if kind == "evaluate":
            memory = others.evaluation(models[0].config, models[0].words, max(sizes), self.device)
            verdict = "" if self.gpu is None else "fits" if memory.peak <= usable(self.gpu) else "does not fit"
            return StagePlan(name, kind, memory, host=max(sizes), verdict=verdict)
        words = self._made(kind, stage).words if stage.makes_model else models[0].words
        host, disk = others.WORK[kind](stage, models[0].config, words, self.device) if kind in others.WORK else (0, 0)
        return StagePlan(name, kind, host=host, disk=disk)
