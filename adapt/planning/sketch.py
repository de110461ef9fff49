"""A train stage's model without values: the base as the method holds it, what is inserted, rows that are grown."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from adapt.methods.base import plain_model
from adapt.methods.outline import bytes_of
from adapt.planning.configs import empty_model
from adapt.training.rows import EmbeddingRows, free_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapt.checkpoints import ModelLocation
    from adapt.stages.train import Train

_CHAT_ROWS = 4
"""Rows that a chat template is taken to write where no tokenizer is at hand."""


@dataclass(frozen=True)
class Vocabulary:
    """The embeddings' height after what earlier stages of the recipe do to it, and how many of the pieces are new."""

    height: int
    new: int = 0


@dataclass(frozen=True)
class Sketch:
    """A model on the meta device as a stage trains it; `base` are the ids of what the plain model holds."""

    model: Any
    rows: EmbeddingRows
    base: frozenset[int]

    @cached_property
    def parts(self) -> dict[str, int]:
        """Bytes of the weights of the base, of what the method inserts, and of rows that train beside a table."""
        apart = {id(rows) for rows in self.rows.parameters} if self.rows.tables else set()
        parts = {"weights": 0, "adapters": 0, "new rows": 0}
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            inside = "weights" if id(tensor) in self.base else "adapters"
            parts["new rows" if id(tensor) in apart else inside] += bytes_of(tensor)
        return parts

    @cached_property
    def training(self) -> list[torch.nn.Parameter]:
        """What has a gradient, in the first turn where there are turns."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def is_embedding(self, parameter: torch.nn.Parameter) -> bool:
        """Whether a parameter belongs to the embeddings."""
        return any(parameter is other for other in self.rows.all_parameters)


def sketch(stage: Train, config: PretrainedConfig, words: Vocabulary, location: ModelLocation, bf16: bool) -> Sketch:
    """The model of a train stage. Raises AdaptError where the method would, for a model that does not fit it."""
    config = copy.deepcopy(config)
    config.vocab_size = words.height
    model = empty_model(config)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    model = stage.method.outline(model, bf16)
    tensors = (*model.named_parameters(), *model.named_buffers())
    base = frozenset(id(tensor) for name, tensor in tensors if _plain(name) in names)
    return Sketch(model, _rows(stage, model, words, location), base)


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _rows(stage: Train, model: Any, words: Vocabulary, location: ModelLocation) -> EmbeddingRows:
    """The rows that train: by the tokenizer of a model that lies there, else as many as the recipe says."""
    from adapt.checkpoints import load_tokenizer

    method = stage.method
    if location.folder is not None:
        return method.rows(model, stage.held, location, load_tokenizer(location))
    counts = {"new_rows": words.new, "chat_rows": _CHAT_ROWS}
    count = min(counts.get(method.train_embeddings, 0) or words.height, words.height)
    listed = torch.arange(words.height - count, words.height) if method.train_embeddings in counts else None
    return free_rows(plain_model(model), method.train_embeddings, set(), listed, method.old_rows)
