"""What a way to adapt a model is: how the base is loaded, what trains, and how the result becomes a plain checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapt.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adapt.checkpoints import ModelLocation

TrainEmbeddings = Literal["frozen", "new_rows", "whole"]


class Method(Settings, ABC):
    """Base of all methods. One file each; `adapt.methods.METHODS` is the table."""

    train_embeddings: TrainEmbeddings = "frozen"
    """Which rows of the input and output embeddings train: none (`frozen`), those of pieces that this recipe added (`new_rows`), or all (`whole`)."""

    @abstractmethod
    def load(self, location: ModelLocation, dtype: torch.dtype) -> PreTrainedModel:
        """The base model as the method trains over it (for example quantised)."""

    @abstractmethod
    def attach(self, model: PreTrainedModel) -> PreTrainedModel:
        """Insert the method's modules (as the identity) and set `requires_grad` on exactly what trains."""

    @abstractmethod
    def save(
        self, model: Any, location: ModelLocation, tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> dict[str, Any]:
        """Write `folder/model` (plain checkpoint) and, where there is one, `folder/adapter`; return what was measured."""
