"""Main memory while a model is written: the engine holds blocks of it, the proof that it loads holds it once.

See `adapt.methods.streaming` and `adapt.methods.reloading`. What one large module takes when it is widened to float32,
and the logits that are compared, come on top; blocks of a merge are small beside that and left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapt.planning.sketch import Vocabulary
from adapt.stages.preparation import PROBE_LENGTH
from adapt.training.monitor import PROBE_ROWS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapt.planning.train import TrainPlan

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DRAWN = 2 * 48
"""Positions of `adapt.checkpoints.probe_ids`, on which a stage that trains nothing compares two models."""


def parameters(config: PretrainedConfig, words: Vocabulary) -> int:
    """Numbers in a model with a vocabulary of another height, tied embeddings once."""
    return sum(_sizes(config, words))


def checkpoint_bytes(config: PretrainedConfig, words: Vocabulary, dtype: str | None = None) -> int:
    """Bytes of a checkpoint's weights, in the stored format or another."""
    return parameters(config, words) * _BYTES.get(dtype or _stored(config), 4)


def _stored(config: PretrainedConfig) -> str:
    return str(config.dtype or "float32").removeprefix("torch.")


def _sizes(config: PretrainedConfig, words: Vocabulary) -> list[int]:
    """Numbers in each parameter; the embeddings have the vocabulary's height."""
    from adapt.planning.configs import empty_model

    model = empty_model(config)
    tables = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    shapes = ((id(parameter), parameter.shape) for parameter in model.parameters())
    return [words.height * shape[1] if name in tables else shape.numel() for name, shape in shapes]


def proof(config: PretrainedConfig, words: Vocabulary, dtype: str | None = None, positions: int = DRAWN) -> int:
    """The written model in its format, loaded once, while it is compared on so many positions.

    In a pass through it the largest module is in float32, beside the logits of the live model and two of the written
    one; later these three and what their difference needs.
    """
    size, logits = _BYTES.get(dtype or _stored(config), 4), 4 * positions * words.height
    widened = 0 if size == 4 else 4 * max(_sizes(config, words))
    return checkpoint_bytes(config, words, dtype) + max(widened + 3 * logits, 5 * logits)


def trained(made: TrainPlan) -> int:
    """While a train stage writes its result; on a CPU the trained model and its moments are there as well."""
    from adapt.methods.base import plain_model
    from adapt.planning.memory import moments_of

    config = made.sketch.model.config.get_text_config()
    height = plain_model(made.sketch.model).get_output_embeddings().weight.shape[0]
    positions = PROBE_ROWS * min(PROBE_LENGTH, made.stage.sequence_length)
    cpu = made.device == "cpu"
    live = sum(made.sketch.parts.values()) if cpu else 0
    moments = moments_of(made.sketch, made.stage) if cpu or made.stage.optimizer.leaves_device() else 0
    return live + moments + proof(config, Vocabulary(height), positions=positions)
