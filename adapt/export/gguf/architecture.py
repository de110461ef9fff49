"""What llama.cpp has to know of a model: metadata, tensors' names, the order of rows in queries and keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapt.errors import AdaptError

if TYPE_CHECKING:
    from gguf import GGUFWriter

FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's architecture for each `model_type` of transformers."""
_PERMUTED = {"llama"}
"""Architectures whose rotary embedding turns neighbouring pairs of rows, not the two halves of a head."""


@dataclass(frozen=True)
class Architecture:
    """A model's shape, from its `config.json`."""

    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        kind, config = self.config.get("model_type"), self.config
        if kind not in FAMILIES:
            raise AdaptError(f"GGUF is written for {', '.join(FAMILIES)}; '{kind}' is not one of them")
        for key, known in (("hidden_act", "silu"), ("use_sliding_window", False), ("partial_rotary_factor", 1.0)):
            if config.get(key, known) != known and config.get(key) is not None:
                raise AdaptError(f"GGUF: {key} is {config[key]!r}; llama.cpp's '{self.name}' computes with {known!r}")
        if self.rope.get("rope_type") not in ("default", "linear", "llama3"):
            raise AdaptError(f"GGUF: rope_type is {self.rope.get('rope_type')!r}; written are default, linear, llama3")

    @property
    def name(self) -> str:
        """llama.cpp's name for the family."""
        return FAMILIES[self.config["model_type"]]

    @property
    def heads(self) -> int:
        """Heads of the queries."""
        return int(self.config["num_attention_heads"])

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def width(self) -> int:
        """Width of a head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def rope(self) -> dict[str, Any]:
        """How positions turn queries and keys, in the words of transformers 5."""
        old = self.config.get("rope_scaling") or {}
        found = {"rope_type": old.get("type", "default"), "rope_theta": self.config.get("rope_theta", 10000.0)} | old
        return {**found, **(self.config.get("rope_parameters") or {})}

    def warnings(self) -> list[str]:
        """What the file cannot say."""
        window, context = self.config.get("sliding_window"), self.config["max_position_embeddings"]
        if self.config["model_type"] == "mistral" and window and window < context:
            return [f"llama.cpp attends to the whole context, this model to {window} tokens (sliding_window)"]
        return []

    def describe(self, writer: GGUFWriter, name: str, height: int) -> None:
        """Write the metadata; `height` are the rows of the embedding."""
        config = self.config
        writer.add_name(name)
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.key_heads)
        writer.add_key_length(self.width)
        writer.add_value_length(self.width)
        writer.add_rope_dimension_count(self.width)
        writer.add_rope_freq_base(self.rope["rope_theta"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_vocab_size(height)
        if self.rope["rope_type"] == "linear":
            from gguf import RopeScalingType

            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope["factor"])

    def names(self, tensors: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Pairs of a checkpoint's tensor and its name in the file. Raises AdaptError for one that has none."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.name)
        table = get_tensor_name_map(arch, self.config["num_hidden_layers"])
        for name in tensors:
            if name.endswith(".rotary_emb.inv_freq"):
                continue
            found = table.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise AdaptError(f"GGUF has no name for the tensor '{name}' of a {self.config['model_type']} model")
            yield name, found

    def turned(self, name: str) -> int | None:
        """The heads of a tensor whose rows are permuted; None for one that keeps its order."""
        if self.name not in _PERMUTED:
            return None
        stem = name.rpartition(".")[0]
        return self.heads if stem.endswith("q_proj") else self.key_heads if stem.endswith("k_proj") else None

    def rope_factors(self) -> torch.Tensor | None:
        """By what Llama 3.1 slows each pair's rotation, `[width / 2]`; None where all turn as trained."""
        return llama3_factors(self.rope, self.width) if self.rope["rope_type"] == "llama3" else None


def permuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys, `[heads * width, ...]`, from halves to pairs: row `j + width/2 * i` of a head becomes
    its row `2 j + i`. Transformers turns row j with row j + width/2, llama.cpp row 2j with row 2j + 1."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def unpermuted(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse of `permuted`."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope: Mapping[str, Any], width: int) -> torch.Tensor:
    """Divisors of the frequencies `theta^(-2j / width)`, `[width / 2]` in float32, as Llama 3.1 scales them.

    Wavelengths above `context / low_freq_factor` are slowed by `factor`, those below `context / high_freq_factor` not
    at all, those between by a weighted mean of the two frequencies.
    """
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    turns = context * frequencies / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1.0 / ((1 - share) / factor + share)).float()
