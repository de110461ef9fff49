"""Beside the training steps: progress, log, evaluations, the first-step check, the state before an anneal."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from adapt.display import Task
from adapt.log import Log
from adapt.training.monitor import Monitor
from adapt.training.rehearsal import rehearse
from adapt.training.resumable import Resumable
from adapt.training.rules import check_gradients

BEFORE_ANNEAL = "before_anneal"
_REWARDS = {"rewards/accuracies": "reward_accuracy", "rewards/margins": "reward_margin"}
"""What TRL's trainers of pairs say of the batches, in our words."""


def peak_memory() -> int:
    """The most bytes that the run has held so far: on the GPU where there is one, else resident in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def evaluation_steps(steps: int, count: int) -> set[int]:
    """Step 0, the end, and `count - 1` steps evenly between them."""
    return {round(index * steps / count) for index in range(count + 1)}


class Watch(TrainerCallback):
    """Beside the steps of one run; `trainer` is set when it exists, for it is made with its callbacks."""

    trainer: Resumable
    stream: Sequence[Any] = ()

    def __init__(
        self, log: Log, task: Task, monitor: Monitor, evaluate_at: set[int], bytes_per_token: float | None, folder: Path
    ) -> None:
        self.log, self.task, self.monitor, self.evaluate_at = log, task, monitor, evaluate_at
        self.bytes_per_token, self.folder = bytes_per_token, folder
        self.held_out: dict[str, float] = {}
        self.modules_with_gradient = 0
        self._clock = time.perf_counter()
        self._session = (0, 0.0)

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.trainer.counts.seconds += now - self._clock
        self._clock = now

    def _speed(self) -> float:
        tokens, seconds = self._session
        counts = self.trainer.counts
        return (counts.tokens - tokens) / max(1e-9, counts.seconds - seconds)

    def _bits(self, loss: float) -> dict[str, float]:
        """A loss in nats a token as bits per byte, with the stream's average length of a token.

        Empty for conversations: their loss stands on some tokens only, whose length is another.
        """
        return {"bits_per_byte": loss / math.log(2) / self.bytes_per_token} if self.bytes_per_token else {}

    def _evaluate(self, step: int) -> None:
        if not self.monitor.sources:
            return
        values = self.monitor.measure(self.trainer.model)
        self.log.write("evaluation", step=step, tokens=self.trainer.counts.tokens, **values)
        due = self.trainer.control.should_log
        self.trainer.log({f"bits_per_byte/{name}": value for name, value in values.items()})
        self.trainer.control.should_log = due  # logging these numbers is not the step's own log
        self.held_out = {f"held-out {name}": value for name, value in values.items()}
        self._clock = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Measure the model before its first step, and see that the longest batch fits."""
        rehearse(self.trainer, self.stream)
        if state.global_step == 0:
            self._evaluate(0)
        self._clock = time.perf_counter()
        self._session = (self.trainer.counts.tokens, self.trainer.counts.seconds)
        if state.global_step == 0 and self.trainer.plan.schedule.anneal_begin(self.trainer.plan.total) == 0:
            self._keep_before_anneal()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """After the first backward pass: everything that is to train has a gradient."""
        if state.global_step == 0:
            self.modules_with_gradient = check_gradients(self.trainer.model, self.trainer.rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Show progress; evaluate and keep the state before an anneal where they are due."""
        self._count_time()
        self.trainer.count_step()
        plan, step = self.trainer.plan, state.global_step
        if step in self.evaluate_at:
            self._evaluate(step)
        if plan.offset + step == plan.schedule.anneal_begin(plan.total):
            self._keep_before_anneal()
        loss, self.trainer.step_loss = self.trainer.step_loss, 0.0
        numbers = {"loss": loss, **self._bits(loss), **self.held_out}
        self.task.update(step, **numbers, tokens_per_second=self._speed(), peak_memory_bytes=peak_memory())

    def _keep_before_anneal(self) -> None:
        self.trainer.write_checkpoint(self.folder / BEFORE_ANNEAL)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **others: Any) -> None:
        """One line of the log, in our words."""
        if not logs or "loss" not in logs:
            return
        self.log.write(
            "train",
            step=state.global_step,
            tokens=self.trainer.counts.tokens,
            loss=logs["loss"],
            **self._bits(logs["loss"]),
            learning_rate=logs["learning_rate"],
            tokens_per_second=self._speed(),
            gradient_norm=logs.get("grad_norm"),
            **{ours: logs[name] for name, ours in _REWARDS.items() if name in logs},
        )

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Note the checkpoint."""
        self.log.write("checkpoint", step=state.global_step)
        self._count_time()
