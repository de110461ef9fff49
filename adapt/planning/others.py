"""What stages take that do not train: main memory and disk, in closed forms from the size of their models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from adapt.checkpoints import ModelLocation, read_json
from adapt.methods.base import plain_model
from adapt.planning.memory import EVALUATED, LOGIT_BUDGET, Memory
from adapt.planning.sketch import Vocabulary
from adapt.planning.tokens import BYTES_PER_TOKEN
from adapt.planning.writing import DRAWN, checkpoint_bytes, parameters, proof
from adapt.training.rows import VOCABULARY_FILE

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from adapt.planning.train import TrainPlan

_GGUF = {"f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Bytes of a number in a GGUF file; q8_0 has a scale of 2 bytes for each 32 numbers."""
_UNDECIDED = 8192
"""Pieces that `add: auto` is taken to find."""


def new_pieces(location: ModelLocation) -> int:
    """Pieces that an earlier recipe added to a model that lies there."""
    file = location.folder / VOCABULARY_FILE if location.folder else None
    return len(read_json(file)["new_ids"]) if file is not None and file.exists() else 0


def created(stage: Any) -> PretrainedConfig:
    """The configuration that a create_model stage makes."""
    from transformers import LlamaConfig

    shape = stage.architecture
    return LlamaConfig(
        vocab_size=stage.tokenizer.size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        dtype=shape.dtype,
    )


def grown(stage: Any, words: Vocabulary) -> Vocabulary:
    """The vocabulary that an expand_vocabulary stage makes, as far as its keys tell."""
    if isinstance(stage.size, int):
        return Vocabulary(stage.size, max(0, stage.size - words.height))
    given = len(stage.tokens) if isinstance(stage.tokens, (list, tuple)) else 0
    added = stage.add if isinstance(stage.add, int) else given or _UNDECIDED
    multiple = stage.pad_to_multiple_of or 1
    return Vocabulary(-(-(words.height + added) // multiple) * multiple, words.new + added)


def train_disk(made: TrainPlan) -> tuple[int, int]:
    """Bytes of what a train stage leaves (model, adapter) and of its states while it runs.

    A state holds what trains in float32 and the moments; a new one is written before the oldest goes.
    """
    training = 4 * sum(parameter.numel() for parameter in made.sketch.training)
    config, stage = made.sketch.model.config.get_text_config(), made.stage
    height = plain_model(made.sketch.model).get_output_embeddings().weight.shape[0]
    model = checkpoint_bytes(config, Vocabulary(height))
    adapter = made.sketch.parts["adapters"]
    rule = stage.optimizer.state_bytes
    moments = sum(rule(tuple(p.shape), made.sketch.is_embedding(p)) for p in made.sketch.training)
    before_anneal = training + moments if stage.schedule.kind == "infinite" else 0
    return model + adapter + before_anneal, (stage.keep_checkpoints + 1) * (training + moments)


def evaluation(config: PretrainedConfig, words: Vocabulary, size: int, device: str) -> Memory:
    """Weights in their stored format, and the largest batch of logits."""
    positions = min(EVALUATED[device], LOGIT_BUDGET // (4 * words.height))
    batch = positions * words.height * 2 + min(positions, 1024) * words.height * 8
    parts = {"weights": size, "evaluation": batch}
    return Memory(parts, {"evaluation": size + batch})


def create(config: PretrainedConfig, words: Vocabulary) -> int:
    """Main memory of drawing a model in float32 and of writing it: the library copies a file's tensors before."""
    drawn, made = (checkpoint_bytes(config, words, dtype) for dtype in ("float32", None))
    return max(drawn, 2 * made)


def _expand(stage: Any, config: Any, words: Vocabulary, device: str) -> tuple[int, int]:
    """The grown model, in float32 where a CPU computes; then in its format, beside it the one that was written."""
    made = checkpoint_bytes(config, words)
    computing = checkpoint_bytes(config, words, "float32") if device == "cpu" else made
    return max(computing, made + proof(config, words)), made


def _merge(stage: Any, config: Any, words: Vocabulary, device: str) -> tuple[int, int]:
    """A search holds the model where it computes, on a CPU in float32; then the written model is loaded."""
    tried = checkpoint_bytes(config, words, "float32") if stage.search and device == "cpu" else 0
    return max(tried, proof(config, words, stage.dtype)), checkpoint_bytes(config, words, stage.dtype)


def _export(stage: Any, config: Any, words: Vocabulary, device: str) -> tuple[int, int]:
    """Models are measured one after the other, on a CPU in float32, with what they say of a window of text."""
    from adapt.evaluation.bits_per_byte import context_of, window_for

    count = parameters(config, words)
    disk = checkpoint_bytes(config, words, stage.dtype) if "safetensors" in stage.formats else 0
    disk += round(count * sum(_GGUF[kind] for kind in stage.gguf.types)) if "gguf" in stage.formats else 0
    loaded = checkpoint_bytes(config, words, "float32" if device == "cpu" else stage.dtype)
    window = round(window_for(context_of(config)) / BYTES_PER_TOKEN) if stage.held_out else DRAWN // 2
    return loaded + 5 * 4 * words.height * window, disk


WORK: dict[str, Callable[[Any, Any, Vocabulary, str], tuple[int, int]]] = {
    "expand_vocabulary": _expand,
    "merge": _merge,
    "export": _export,
}
"""Main memory and disk of a kind of stage, on a machine whose models compute on a device."""
