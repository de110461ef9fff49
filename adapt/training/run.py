"""One training run from a loaded model to a trained one: everything between the settings and the checkpoint."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations import TensorBoardCallback

from adapt.errors import AdaptError
from adapt.training import state
from adapt.training.callbacks import BEFORE_ANNEAL, Watch, evaluation_steps, peak_memory
from adapt.training.companion import Companion
from adapt.training.monitor import Monitor, source_numbers
from adapt.training.parts import gathered
from adapt.training.plan import Plan
from adapt.training.precision import Precision
from adapt.training.resumable import Resumable
from adapt.training.rows import EmbeddingRows
from adapt.training.rules import Snapshot, check_changes, declared, learning, trainable_numbers
from adapt.training.sharding import Hollow
from adapt.training.texts import told
from adapt.training.trainer import StreamTrainer

if TYPE_CHECKING:
    from adapt.checkpoints import ModelLocation
    from adapt.display import Display
    from adapt.log import Log


@dataclass
class Run:
    """A model, its data and a plan. `execute` trains the model in place and returns the numbers for the manifest."""

    model: Any
    rows: EmbeddingRows
    tokenizer: Any
    stream: Sequence[Any]
    collate: Callable[[list[Any]], dict[str, Any]]
    plan: Plan
    monitor: Monitor
    general: str | None
    evaluations: int
    bytes_per_token: float | None
    folder: Path
    display: Display
    log: Log
    tensorboard: bool = True
    companions: Sequence[Companion] = ()
    located: Callable[[str], ModelLocation] | None = None
    """Where a model or a stage's part lies that the objective names."""
    make_trainer: Callable[[Run, Sequence[Any]], Resumable] = lambda run, callbacks: packed_trainer(run, callbacks)
    before: Snapshot = field(init=False)

    def execute(self, continue_from: Path | None = None) -> dict[str, Any]:
        """Train to the end, from the newest complete checkpoint where there is one, and check what changed."""
        for companion in self.companions:
            companion.prepare(self)
        self.before = Snapshot.of(self.model, self.rows)
        resume = self._newest()
        done = int(state.read_state(resume)["step"]) if resume else 0
        self.log.rewind(done if resume else -1)
        if resume:
            self.display.line(f"  going on from step {done:,} of {self.plan.steps:,}")
        else:
            self.log.write("start", step=0, steps=self.plan.steps, **self._trainable())
        hollow = Hollow(self.model, self.rows) if self.plan.world.sharded else None
        with self.display.progress("train", self.plan.steps, done) as task:
            trainer = self._trainer(task, continue_from, done)
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if hollow is not None:
            tensors = gathered(dict(self.model.named_parameters()), self.plan.world.main)
            self.model, self.rows = hollow.filled(tensors) if self.plan.world.main else (None, self.rows)
        if not self.plan.world.main:
            return {}
        also = {name for companion in self.companions for name in companion.changed()}
        changes = check_changes(self.before, Snapshot.of(self.model, self.rows), declared(self.model).keys() | also)
        numbers = self._numbers(trainer, changes)
        self.log.write("finish", step=self.plan.steps, seconds=numbers["seconds"], tokens=numbers["tokens"])
        return numbers

    def _newest(self) -> Path | None:
        """The state that all processes go on from; the first one looks, and removes what is of no use."""

        def look() -> str | None:
            found = state.newest_state(self.folder / "checkpoints", self.display.line)
            return None if found is None else str(found)

        found = self.plan.world.told(look)
        return None if found is None else Path(found)

    @property
    def precision(self) -> Precision:
        """Where the trained model is and computes: in main memory where it was gathered from parts."""
        own = self.plan.precision
        return replace(own, device=torch.device("cpu")) if self.plan.world.sharded else own

    def _trainable(self) -> dict[str, float]:
        return trainable_numbers(self.model, self.rows)

    def _trainer(self, task: Any, continue_from: Path | None, done: int) -> Resumable:
        steps = evaluation_steps(self.plan.steps, self.evaluations)
        watch = Watch(self.log, task, self.monitor, steps, self.bytes_per_token, self.folder)
        watch.stream = self.stream
        callbacks: list[Any] = [watch, *self.companions]
        if self.tensorboard and self.plan.world.main:
            callbacks.append(TensorBoardCallback(_writer(self.folder / "tensorboard", done)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL still speaks of gradient_checkpointing
            watch.trainer = self.make_trainer(self, callbacks)
        for companion in self.companions:
            companion.trainer = watch.trainer
        watch.trainer.companions = self.companions
        watch.trainer.told = lambda rows: told(self.stream, self.tokenizer, rows)
        watch.trainer.frozen = frozen_digest(self.before, self.model)
        if continue_from is not None:
            watch.trainer.start_from(continue_from)
        if not self.plan.world.main:
            state.own_random(self.plan.seed, self.plan.world.rank)
        return watch.trainer

    def _numbers(self, trainer: Resumable, changes: dict[str, int]) -> dict[str, Any]:
        counts, events = trainer.counts, self.log.read("evaluation")
        numbers = {
            "tokens": counts.tokens,
            "trained_tokens": counts.trained,
            "steps": self.plan.steps,
            "seconds": counts.seconds,
            "tokens_per_second": counts.tokens / max(1e-9, counts.seconds),
            "peak_memory_bytes": peak_memory(),
            "precision": "bf16" if self.plan.precision.bf16 else "fp32",
            "trainable": self._trainable(),
            "changed_tensors_ok": True,
            "changed_tensors": changes,
            "tied_embeddings": self.rows.tied,
        }
        for companion in self.companions:
            numbers[companion.name] = companion.numbers()
        others = [name for name in self.monitor.sources if name != self.general]
        if self.general in self.monitor.sources:
            numbers["general"] = source_numbers(events, self.general)
        numbers["target"] = {name: source_numbers(events, name) for name in others}
        return numbers


def packed_trainer(run: Run, callbacks: Sequence[Any]) -> StreamTrainer:
    """TRL's SFTTrainer over a run's packed rows."""
    return StreamTrainer(run.model, run.plan, run.folder, run.stream, run.collate, run.tokenizer, run.rows, callbacks)


def frozen_digest(snapshot: Snapshot, model: Any) -> str:
    """One digest of all parameters that do not train: the base that a state belongs to."""
    value = hashlib.blake2b(digest_size=16)
    names = {name for name, _ in model.named_parameters()} - learning(model).keys()
    for name in sorted(names):
        value.update(f"{name} {snapshot.tensors[name]}\n".encode())
    return value.hexdigest()


def before_anneal(folder: Path) -> tuple[Path, int]:
    """The state that a finished stage kept before its anneal, and how many updates led to it."""
    kept = folder / BEFORE_ANNEAL
    if not state.is_complete(kept):
        raise AdaptError(
            f"'{folder}' keeps no state from before an anneal; continue_from needs a stage with schedule 'infinite'"
        )
    return kept, int(state.read_state(kept)["update"])


def _writer(folder: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder), purge_step=done + 1 if done else None)
