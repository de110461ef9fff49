"""TRL's SFTTrainer on packed rows; everything that is not loss or schedule is TRL's and transformers'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from adapt.training.loss import add_chunked_loss, check_chunked_loss, inputs_of, is_small, whole_loss
from adapt.training.plan import Counts, Plan
from adapt.training.resumable import Resumable, indices, shared_arguments
from adapt.training.rows import EmbeddingRows

__all__ = ["Counts", "Plan", "StreamTrainer", "arguments"]


def arguments(plan: Plan, folder: Path) -> SFTConfig:
    """The plan in TRL's words; rows come packed."""
    return SFTConfig(
        **shared_arguments(plan, folder),
        activation_offloading=plan.activation_offloading,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


class StreamTrainer(Resumable, SFTTrainer):
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
        masters = self.begin(model, plan, rows, folder)
        super().__init__(
            model=model,
            args=arguments(plan, folder),
            train_dataset=indices(plan),
            data_collator=lambda items: collate([stream[item["index"]] for item in items]),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.settle(masters)
        self.height = self.model.get_output_embeddings().weight.shape[0]
        if rows.tables:
            self._add_chunked_loss()

    def _add_chunked_loss(self) -> None:
        plain = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        add_chunked_loss(plain)
        with self.plan.precision.autocast():
            check_chunked_loss(plain)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of the tokens, and what the companions add to it."""
        for companion in self.companions:
            inputs = companion.batch(inputs)
        loss = self._token_loss(model, inputs, return_outputs, num_items_in_batch)
        for companion in self.companions:
            extra = companion.extra_loss()
            if extra is not None:
                loss = loss + self._shared(extra, num_items_in_batch)
        return loss

    def _shared(self, total: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """A batch's sum over tokens, divided by the number of trained tokens of the whole update on all devices."""
        share = total / torch.as_tensor(num_items_in_batch).clamp(min=1)
        return share * self.accelerator.num_processes if self.args.average_tokens_across_devices else share

    def _token_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool, num_items_in_batch: Any
    ) -> torch.Tensor:
        """The loss summed over the batch, divided as in `_shared`.

        Small logits are the model's own, all at once. Large ones are never whole: over two tables the chunks are ours,
        over a plain head TRL's, which computes the products twice but has kernels for a GPU.
        """
        labels, batch = inputs["labels"], inputs_of(inputs)
        if self.aux_loss_enabled:
            batch["output_router_logits"] = True
        if is_small(labels, self.height):
            outputs = model(**batch)
            loss = whole_loss(outputs.logits, labels)
        elif self.rows.tables:
            outputs = model(**batch, labels=labels, chunked_loss=True)
            loss = outputs["loss"]
        else:
            return super().compute_loss(model, dict(inputs), return_outputs, num_items_in_batch)
        loss = self._shared(loss, num_items_in_batch)
        if self.aux_loss_enabled:  # the balance of a mixture of experts is a mean over a batch
            loss = loss + self.router_aux_loss_coef * outputs["aux_loss"] / self.current_gradient_accumulation_steps
        return loss

    def counted(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """All positions, padding too, and those with a label that something predicts."""
        labels = inputs["labels"]
        return labels.numel(), int((labels[:, 1:] != -100).sum())
