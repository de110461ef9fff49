"""Writing a GGUF file: metadata, vocabulary, then one tensor after the other; only one is in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapt.checkpoints import read_json
from adapt.errors import AdaptError
from adapt.export.gguf import pre_tokenizers
from adapt.export.gguf.architecture import Architecture, permuted
from adapt.export.gguf.values import BITS, Kind, encoded, kind_of, shape_of
from adapt.export.gguf.vocabulary import Vocabulary, read
from adapt.export.tensors import read_tensor
from merge.checkpoint import Checkpoint
from merge.errors import MergeError

_FILE_TYPES = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Entry:
    """A tensor of the file: its name in the checkpoint and in the file, its shape and format, the heads that turn."""

    source: str
    name: str
    shape: tuple[int, ...]
    kind: str
    heads: int | None


@dataclass(frozen=True)
class Plan:
    """All that a file will hold."""

    checkpoint: Checkpoint
    architecture: Architecture
    vocabulary: Vocabulary
    entries: tuple[Entry, ...]
    kind: Kind

    @classmethod
    def of(cls, folder: Path, kind: Kind, pre_tokenizer: str | None = None) -> Plan:
        """Plan the file of a checkpoint. Raises AdaptError for models and tokenizers that GGUF cannot hold."""
        try:
            checkpoint = Checkpoint("model", folder)
            height = checkpoint.height
        except MergeError as error:
            raise AdaptError(str(error)) from error
        architecture = Architecture(checkpoint.config)
        return cls(
            checkpoint,
            architecture,
            read(folder, height, pre_tokenizer),
            tuple(_entries(checkpoint, architecture, kind)),
            kind,
        )

    def warnings(self) -> list[str]:
        """What another program will do otherwise."""
        document = read_json(self.checkpoint.folder / "tokenizer.json")
        return [*self.architecture.warnings(), *pre_tokenizers.warnings(document)]

    def values(self, entry: Entry) -> torch.Tensor:
        """A tensor in the order of the file."""
        tensor = read_tensor(self.checkpoint, entry.source)
        return tensor if entry.heads is None else permuted(tensor, entry.heads)


def _entries(checkpoint: Checkpoint, architecture: Architecture, kind: Kind) -> Iterator[Entry]:
    tied = checkpoint.head is None
    for source, name in architecture.names(checkpoint.tensors):
        if tied and name == "output.weight":
            continue  # the same matrix under its second name
        shape = checkpoint.tensors[source].shape
        yield Entry(source, name, shape, kind_of(shape, kind), architecture.turned(source))


def write(plan: Plan, file: Path, name: str) -> None:
    """Write the file; it appears whole or not at all."""
    import numpy as np
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType

    logging.getLogger("gguf").setLevel(logging.WARNING)
    part = file.with_suffix(".part")
    writer = GGUFWriter(part, plan.architecture.name)
    writer.add_type("model")
    plan.architecture.describe(writer, name, plan.checkpoint.height)
    plan.vocabulary.describe(writer)
    writer.add_file_type(LlamaFileType[_FILE_TYPES[plan.kind]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    factors = plan.architecture.rope_factors()
    if factors is not None:
        _announce(writer, ROPE_FACTORS, tuple(factors.shape), "f32", np, GGMLQuantizationType)
    for entry in plan.entries:
        _announce(writer, entry.name, entry.shape, entry.kind, np, GGMLQuantizationType)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    for entry in plan.entries:
        writer.write_tensor_data(encoded(plan.values(entry), entry.kind, entry.source))
    writer.close()
    part.rename(file)


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str, np: Any, types: Any) -> None:
    raw = np.dtype({"f32": np.float32, "f16": np.float16}.get(kind, np.uint8))
    size = int(torch.Size(shape).numel() * BITS[kind] / 8)
    writer.add_tensor_info(name, shape_of(shape, kind), raw, size, types[kind.upper()])
