"""What every trainer of ours has: schedule, optimiser groups and checkpoints, under TRL's and transformers' trainers.

A mixin, named before TRL's trainer among the bases. transformers pickles the optimiser and writes checkpoints in place,
so its writing and reading are replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, ProgressCallback

from adapt.errors import AdaptError
from adapt.training import sharding, state, zero
from adapt.training.parts import gathered, gathered_state, split_state, whole
from adapt.training.plan import Counts, Plan
from adapt.training.rules import learning
from adapt.training.sharding import random_of_all

if TYPE_CHECKING:
    from adapt.training.companion import Companion
    from adapt.training.rows import EmbeddingRows


_PATIENCE = 24 * 3600
"""Seconds that processes wait for each other: the first one may write or measure for long."""


def shared_arguments(plan: Plan, folder: Path) -> dict[str, Any]:
    """The plan in transformers' words. Our data come tokenised, in the stream's own order."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "max_grad_norm": plan.optimizer.max_grad_norm,
        "bf16": plan.precision.bf16,
        "use_cpu": plan.precision.device.type == "cpu",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if plan.gradient_checkpointing else None,
        "save_strategy": "steps",
        "save_steps": plan.checkpoint_every,
        "logging_strategy": "steps",
        "logging_steps": plan.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "report_to": list(plan.report_to) or "none",
        "disable_tqdm": True,
        "ddp_backend": "gloo" if plan.precision.device.type == "cpu" and plan.world.size > 1 else None,
        "ddp_timeout": _PATIENCE,
        "dataloader_pin_memory": plan.precision.device.type == "cuda",
        "seed": plan.seed,
        "data_seed": plan.seed,
    }


class Indices(Dataset):
    """Rows `{"index": i}`. What a trainer would do to texts is done already, so `map` changes nothing."""

    def map(self, *arguments: Any, **others: Any) -> Indices:
        """The same rows."""
        return self


def indices(plan: Plan) -> Indices:
    """One row for each row of the stream that a run reads; TRL's trainers take nothing but a data set."""
    return Indices.from_dict({"index": range(plan.steps * plan.batch_size * plan.accumulation * plan.world.size)})


class Resumable:
    """Schedule, optimiser, counts and checkpoints of one run; goes on bit for bit where it was stopped."""

    def begin(self, model: Any, plan: Plan, rows: EmbeddingRows, folder: Path) -> dict[str, torch.Tensor]:
        """Before the trainer is made: its own fields. Returns the weights that train, for `settle`."""
        self.plan, self.rows, self.folder, self.counts = plan, rows, folder, Counts()
        self.frozen, self.step_loss = "", 0.0
        self._seen, self._batch_number = [0.0, 0.0, 0.0], 0
        self._start: Path | None = None
        self._parts: sharding.Sharded | zero.Engine | None = None
        self.told: Callable[[range], str] = str
        self.companions: Sequence[Companion] = ()
        return {name: parameter.data for name, parameter in learning(model).items()}

    def settle(self, masters: Mapping[str, torch.Tensor]) -> None:
        """After the trainer is made: take back what it changed on its own account."""
        for name, parameter in learning(self.model).items():
            # TRL casts what trains over a quantised base to bf16; updates smaller than its step would be lost
            parameter.data = masters[name].to(parameter.device)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.processing_class = None  # else train() rewrites the model's special tokens in its configuration

    def counted(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Positions of a batch that go through the model, and those that carry loss."""
        raise NotImplementedError

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Ours, over the groups of `adapt.training.optimizer`."""
        if self.optimizer is None:
            plan, world = self.plan, self.plan.world
            if world.sharded:
                split = zero.split if world.strategy == "deepspeed" else sharding.split
                self._parts, self.optimizer = split(self.model, self.rows, plan, self.args.device)
            else:
                self.optimizer = plan.optimizer.build(self.model, self.rows, plan.schedule.peak)
            if self._start is not None:
                self.load_optimizer(self._start)
        return self.optimizer

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """A model that is split goes to the devices in parts."""
        if not self.plan.world.sharded:
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """A split model needs nothing of accelerate; the others are wrapped there."""
        if self.plan.world.sharded:
            return self._parts
        return super()._wrap_model(model, training, dataloader)

    def start_from(self, folder: Path) -> None:
        """Begin with the weights and moments of another run's state. Raises AdaptError where its base was another."""
        if state.read_state(folder)["frozen"] != self.frozen:
            raise AdaptError(
                f"the state in '{folder}' was trained over other frozen weights than this stage's; "
                "give the stage the same model and method as the one that it goes on from"
            )
        state.load_weights(folder, learning(self.model))
        self._read_companions(folder)
        if self.optimizer is None:
            self._start = folder
        else:
            self.load_optimizer(folder)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The schedule as torch's LambdaLR, counted from the first update of the first stage on it."""
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _rate(self, update: int) -> float:
        """The schedule's multiplier for an update of this run, with what the companions make of it."""
        share = self.plan.schedule.rate(self.plan.offset + update, self.plan.total)
        return share * math.prod(companion.rate(update) for companion in self.companions)

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; counts tokens and stops at a loss that is no number."""
        tokens, trained = self.counted(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = loss.item()
        if not math.isfinite(value):
            self._diverged("loss", value, self._batch_number)
        self._batch_number += 1
        self._seen = [sum(pair) for pair in zip(self._seen, (tokens, trained, value), strict=True)]
        return loss

    def count_step(self) -> None:
        """After an update: add what all processes have read to the counts. The loss is scaled by their number."""
        seen = torch.tensor(self._seen, dtype=torch.float64, device=self.args.device)
        tokens, trained, loss = self.accelerator.reduce(seen, "sum").tolist()
        self.counts.tokens += int(tokens)
        self.counts.trained += int(trained)
        self.step_loss = loss / self.plan.world.size
        self._seen, self._batch_number = [0.0, 0.0, 0.0], 0

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = model.norm() if isinstance(model, zero.Engine) else super()._clip_grad_norm(model)
        norm = whole(norm) if isinstance(norm, torch.Tensor) else norm
        value = float(norm)
        if not math.isfinite(value):
            self._diverged("gradient norm", value)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Where gradients are not scaled down; DeepSpeed does not leave them at the parameters."""
        if grad_norm is None and isinstance(model, zero.Engine):
            return model.norm()
        return super()._get_grad_norm(model, grad_norm)

    def _diverged(self, what: str, value: float, batch: int | None = None) -> None:
        """Stop, with the rows of the update, or of its `batch`, and the newest state, which is from before."""
        plan, step, rate = self.plan, self.state.global_step, self._get_learning_rate()
        size = plan.batch_size
        rows = range(
            step * size * plan.accumulation * plan.world.size, (step + 1) * size * plan.accumulation * plan.world.size
        )
        if batch is not None and plan.world.size == 1:
            rows = rows[batch * size : (batch + 1) * size]
        states = state.states_in(Path(self.args.output_dir))
        kept = f"the last good checkpoint is '{states[-1]}'" if states else "no checkpoint was due before"
        raise AdaptError(
            f"the {what} became {value} at step {step + 1} with a learning rate of {rate:.3g}, on {self.told(rows)}; "
            f"{kept}. Look at these texts, lower schedule.peak, or set precision: fp32"
        )

    def write_checkpoint(self, folder: Path) -> None:
        """Write the whole state of the run to `folder`, complete or not at all.

        All processes take part in gathering it, the first one writes.
        """
        main = self.plan.world.main
        weights = gathered(learning(self.model), main)
        optimizer = gathered_state(self.optimizer.state_dict(), main)
        randoms = random_of_all(self.accelerator, self.args.device)
        if not main:
            return
        numbers = {
            "step": self.state.global_step,
            "update": self.plan.offset + self.state.global_step,
            "frozen": self.frozen,
            "counts": vars(self.counts),
            "processes": self.plan.world.size,
        }
        state.write_state(
            folder,
            weights,
            optimizer,
            numbers,
            extra=lambda partial: self._write_beside(partial, randoms),
        )

    def _write_beside(self, partial: Path, randoms: Sequence[bytes]) -> None:
        for rank, content in enumerate(randoms[1:], start=1):
            state.random_file(partial, rank).write_bytes(content)
        self.state.save_to_json(str(partial / "trainer_state.json"))
        for companion in self.companions:
            companion.write(partial)

    def _read_companions(self, folder: Path) -> None:
        for companion in self.companions:
            companion.read(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not all(bool(torch.isfinite(whole(weight)).all()) for weight in learning(self.model).values()):
            self._diverged("weights", math.nan)  # before an older state, which is good, has to go
        folder = Path(self.args.output_dir)
        self.write_checkpoint(folder / f"{state.PREFIX}{self.state.global_step}")
        if self.plan.world.main:
            state.keep_newest(folder, self.plan.keep_checkpoints)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        state.load_weights(folder, learning(self.model))
        self._read_companions(folder)
        self.counts = Counts(**state.read_state(folder)["counts"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self.load_optimizer(Path(checkpoint))
        self.lr_scheduler.last_epoch = state.read_state(Path(checkpoint))["step"]
        self._set_rates()

    def load_optimizer(self, folder: Path) -> None:
        """Take the optimiser's moments from a state, but keep this run's own groups and settings."""
        own = self.optimizer.state_dict()["param_groups"]
        stored = state.read_optimizer(folder)
        if isinstance(self._parts, sharding.Sharded):
            stored = split_state(stored, self.optimizer.param_groups)
        self.optimizer.load_state_dict({**stored, "param_groups": own})
        state.lay_out(self.optimizer)

    def _set_rates(self) -> None:
        """Give every group the schedule's rate at the scheduler's step."""
        share = self._rate(self.lr_scheduler.last_epoch)
        rates = [base * share for base in self.lr_scheduler.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.lr_scheduler._last_lr = rates

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_random(Path(checkpoint), self.plan.world.rank, self.plan.seed)
