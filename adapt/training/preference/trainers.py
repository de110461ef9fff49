"""TRL's trainers for pairs, on our rows, schedule, optimiser and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Trainer
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.models import get_act_offloading_ctx_manager

from adapt.methods.base import plain_model
from adapt.training.preference.log_probs import add_token_numbers, check_token_numbers, inputs_of_pairs
from adapt.training.preference.reference import reference_of
from adapt.training.resumable import Resumable, indices, shared_arguments

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from adapt.training.preference.held_out import HeldOutPairs
    from adapt.training.run import Run

try:
    from trl.trainer.utils import add_fused_lm_head as _of_trl
except ImportError:  # before TRL 1.15
    _of_trl = None


class NoReference(nn.Module):
    """Stands where TRL would load or copy a reference model; the numbers are precomputed, so it is never asked."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, *arguments: Any, **others: Any) -> None:
        """Never called."""
        raise NotImplementedError


class Pairwise(Resumable):
    """What both trainers share: counts, logging, and log-probabilities of our own where TRL has none."""

    def own_log_probs(self, always: bool) -> None:
        """Give the model our token numbers where TRL's cannot serve."""
        if always or self.rows.tables or _of_trl is None:
            plain = plain_model(self.model)
            add_token_numbers(plain)
            with self.plan.precision.autocast():
                check_token_numbers(plain)
        if self.plan.world.sharded:
            self.create_optimizer()  # which splits the model: pairs are measured by all processes, each with its part

    def counted(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens without padding, and those of the answers."""
        return int(inputs["attention_mask"].sum()), int(inputs["completion_mask"][:, 1:].sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL adds its averages since the last log to whatever is logged; only to the steps' own, here."""
        if "loss" in logs:
            super().log(logs, start_time)
        else:
            Trainer.log(self, logs, start_time)


class PairDPOTrainer(Pairwise, DPOTrainer):
    """Direct preference optimisation over precomputed reference log-probabilities."""

    def __init__(
        self, run: Run, settings: Mapping[str, Any], held_out: HeldOutPairs | None, callbacks: Sequence[TrainerCallback]
    ) -> None:
        masters = self.begin(run.model, run.plan, run.rows, run.folder)
        super().__init__(
            model=run.model,
            ref_model=NoReference(run.model.config),
            args=DPOConfig(
                **shared_arguments(run.plan, run.folder),
                **settings,
                max_length=None,
                disable_dropout=False,
                activation_offloading=run.plan.activation_offloading,
            ),
            train_dataset=indices(run.plan),
            data_collator=lambda items: self._batch([run.stream[item["index"]] for item in items]),
            processing_class=copy.deepcopy(run.tokenizer),
            callbacks=list(callbacks),
        )
        self.settle(masters)
        self.ref_model, self.precompute_ref_logps = None, True
        self.own_log_probs(always=False)
        self.collate, self.reference = run.collate, reference_of(run, self.model)
        if held_out is not None:
            held_out.measure_reference(self.model, run)

    def _batch(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        return self.collate(rows) | self.reference.columns(rows)

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **others: Any) -> Any:
        """Ours is tokenised already."""
        return dataset


class PairORPOTrainer(Pairwise, ORPOTrainer):
    """Odds-ratio preference optimisation; its likelihood term is normalised over the tokens of the whole update."""

    def __init__(
        self, run: Run, settings: Mapping[str, Any], held_out: HeldOutPairs | None, callbacks: Sequence[TrainerCallback]
    ) -> None:
        masters = self.begin(run.model, run.plan, run.rows, run.folder)
        self.chosen_tokens: torch.Tensor | int = 1
        super().__init__(
            model=run.model,
            args=ORPOConfig(**shared_arguments(run.plan, run.folder), **settings, disable_dropout=False),
            train_dataset=indices(run.plan),
            data_collator=lambda items: run.collate([run.stream[item["index"]] for item in items]),
            processing_class=copy.deepcopy(run.tokenizer),
            callbacks=list(callbacks),
        )
        self.settle(masters)
        wanted = run.plan.activation_offloading
        self.offloading = get_act_offloading_ctx_manager(model=self.model) if wanted else nullcontext()
        self.own_log_probs(always=True)
        if held_out is not None:
            held_out.measure_reference(self.model, run)

    def training_step(self, *arguments: Any, **others: Any) -> torch.Tensor:
        """With activations offloaded where that is asked for; TRL's other trainers do this themselves."""
        with self.offloading:
            return super().training_step(*arguments, **others)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The batches of an update; the tokens of their chosen answers are counted for its likelihood term."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        marks = [batch["completion_mask"].chunk(2)[0][:, 1:].sum() for batch in batches]
        if marks:
            self.chosen_tokens = self.accelerator.gather(torch.stack(marks).sum().to(device)).sum()
        return batches, count

    def concatenated_forward(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Mean log-probability of each answer, `[pairs]` each, mean logits, and the chosen answers' loss.

        `-sum_t log p(y_t) / T` with T the tokens of all chosen answers of the update, as equation 2 of Hong et al. 2024
        has it over one answer; TRL's own is a mean over each batch, and over the prompts too. The update's gradients
        are divided by its batches and averaged over devices afterwards, hence the factor.
        """
        asked = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(**inputs_of_pairs(batch), fused_lm_head=True, use_cache=False, **asked)
        lengths = batch["completion_mask"][:, 1:].sum(1)
        sums = outputs.log_probs.float().sum(1)
        chosen, rejected = (sums / lengths).chunk(2)
        factor = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        likelihood = -sums.chunk(2)[0].sum() * factor / self.chosen_tokens
        logits = (outputs.mean_logits.sum(1) / lengths).chunk(2)
        more = (outputs.aux_loss,) if self.aux_loss_enabled else ()
        return (chosen, rejected, *logits, likelihood, *more)
