"""TRL's SFTTrainer with our schedule, optimiser groups and checkpoints; everything else is TRL's and transformers'."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from adapt.errors import AdaptError
from adapt.training import state
from adapt.training.loss import add_chunked_loss, check_chunked_loss, inputs_of, is_small, whole_loss
from adapt.training.optimizer import Optimizer
from adapt.training.precision import Precision
from adapt.training.rows import EmbeddingRows
from adapt.training.rules import declared
from adapt.training.schedules.base import Schedule


@dataclass(frozen=True)
class Plan:
    """The numbers of one run. `offset` are updates that an earlier stage made on the same schedule."""

    steps: int
    batch_size: int
    accumulation: int
    schedule: Schedule
    optimizer: Optimizer
    precision: Precision
    seed: int
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int
    gradient_checkpointing: bool
    report_to: tuple[str, ...] = ()
    offset: int = 0

    @property
    def total(self) -> int:
        """Updates on the schedule, with those of the stage that this one goes on from."""
        return self.offset + self.steps


@dataclass
class Counts:
    """What a run has seen so far; part of its checkpoints."""

    tokens: int = 0
    """Positions that went through the model."""
    trained: int = 0
    """Positions that carried loss."""
    seconds: float = 0.0


def arguments(plan: Plan, folder: Path) -> SFTConfig:
    """The plan in TRL's words. Our data come tokenised and packed, in the stream's own order."""
    return SFTConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size,
        gradient_accumulation_steps=plan.accumulation,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_grad_norm=plan.optimizer.max_grad_norm,
        bf16=plan.precision.bf16,
        use_cpu=plan.precision.device.type == "cpu",
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if plan.gradient_checkpointing else None,
        save_strategy="steps",
        save_steps=plan.checkpoint_every,
        logging_strategy="steps",
        logging_steps=plan.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=list(plan.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=plan.precision.device.type == "cuda",
        seed=plan.seed,
        data_seed=plan.seed,
    )


class StreamTrainer(SFTTrainer):
    """Trains on a stream (a sequence of packed rows, each a pure function of its index)."""

    def __init__(
        self,
        model: Any,
        plan: Plan,
        folder: Path,
        stream: Sequence[Any],
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        tokenizer: Any,
        rows: EmbeddingRows,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        from datasets import Dataset

        self.plan, self.rows, self.folder, self.counts = plan, rows, folder, Counts()
        self.frozen, self.step_loss = "", 0.0
        self._start: Path | None = None
        masters = {name: parameter.data for name, parameter in declared(model).items()}
        super().__init__(
            model=model,
            args=arguments(plan, folder),
            train_dataset=Dataset.from_dict({"index": range(plan.steps * plan.batch_size * plan.accumulation)}),
            data_collator=lambda items: collate([stream[item["index"]] for item in items]),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        for name, parameter in declared(model).items():
            # TRL casts what trains over a quantised base to bf16; updates smaller than its step would be lost
            parameter.data = masters[name].to(parameter.device)
        if rows.tables:
            self._add_chunked_loss()
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.processing_class = None  # else train() rewrites the model's special tokens in its configuration

    def _add_chunked_loss(self) -> None:
        plain = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        add_chunked_loss(plain)
        with self.plan.precision.autocast():
            check_chunked_loss(plain)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss summed over the batch, divided by the number of trained tokens of the whole update on all devices.

        Small logits are the model's own, all at once. Large ones are never whole: over two tables the chunks are ours,
        over a plain head TRL's, which computes the products twice but has kernels for a GPU.
        """
        labels, batch = inputs["labels"], inputs_of(inputs)
        if self.aux_loss_enabled:
            batch["output_router_logits"] = True
        if is_small(labels, self.model.get_output_embeddings().weight.shape[0]):
            outputs = model(**batch)
            loss = whole_loss(outputs.logits, labels)
        elif self.rows.tables:
            outputs = model(**batch, labels=labels, chunked_loss=True)
            loss = outputs["loss"]
        else:
            return super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        loss = loss / torch.as_tensor(num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:  # the balance of a mixture of experts is a mean over a batch
            loss = loss + self.router_aux_loss_coef * outputs["aux_loss"] / self.current_gradient_accumulation_steps
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Ours, over the groups of `adapt.training.optimizer`."""
        if self.optimizer is None:
            self.optimizer = self.plan.optimizer.build(self.model, self.rows, self.plan.schedule.peak)
            if self._start is not None:
                self.load_optimizer(self._start)
        return self.optimizer

    def start_from(self, folder: Path) -> None:
        """Begin with the weights and moments of another run's state. Raises AdaptError where its base was another."""
        if state.read_state(folder)["frozen"] != self.frozen:
            raise AdaptError(
                f"the state in '{folder}' was trained over other frozen weights than this stage's; "
                "give the stage the same model and method as the one that it goes on from"
            )
        state.load_weights(folder, declared(self.model))
        self._start = folder

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The schedule as torch's LambdaLR, counted from the first update of the first stage on it."""
        plan = self.plan
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda update: plan.schedule.rate(plan.offset + update, plan.total)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; counts tokens and stops at a loss that is no number."""
        self.counts.tokens += inputs["labels"].numel()
        self.counts.trained += int((inputs["labels"][:, 1:] != -100).sum())
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = loss.item()
        if not math.isfinite(value):
            self._diverged("loss", value)
        self.step_loss += value
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        value = float(norm)
        if not math.isfinite(value):
            self._diverged("gradient norm", value)
        return norm

    def _diverged(self, what: str, value: float) -> None:
        rate = self._get_learning_rate()
        raise AdaptError(
            f"the {what} became {value} at step {self.state.global_step + 1} with a learning rate of {rate:.3g}; "
            "lower schedule.peak, or set precision: fp32"
        )

    # Checkpoints: transformers pickles the optimiser and writes in place, so its writing and reading are replaced.

    def write_checkpoint(self, folder: Path) -> None:
        """Write the whole state of the run to `folder`, complete or not at all."""
        numbers = {
            "step": self.state.global_step,
            "update": self.plan.offset + self.state.global_step,
            "frozen": self.frozen,
            "counts": vars(self.counts),
        }
        state.write_state(
            folder,
            declared(self.model),
            self.optimizer.state_dict(),
            numbers,
            extra=lambda partial: self.state.save_to_json(str(partial / "trainer_state.json")),
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        self.write_checkpoint(folder / f"{state.PREFIX}{self.state.global_step}")
        state.keep_newest(folder, self.plan.keep_checkpoints)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        state.load_weights(folder, declared(self.model))
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
        self.optimizer.load_state_dict({**state.read_optimizer(folder), "param_groups": own})

    def _set_rates(self) -> None:
        """Give every group the schedule's rate at the scheduler's step."""
        share = self.plan.schedule.rate(self.plan.offset + self.lr_scheduler.last_epoch, self.plan.total)
        rates = [base * share for base in self.lr_scheduler.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.lr_scheduler._last_lr = rates

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_random(Path(checkpoint))
