"""LoRA adapters (peft folders) as low-rank task vectors: `base + 0.7 * lora_a + 0.3 * lora_b`.

The update `s B A` of a matrix is computed for the rows of a block alone and added to the sum; it is never there for a
whole matrix, let alone a model. Two adapters are added exactly, as `s_1 w_1 B_1 A_1 + s_2 w_2 B_2 A_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from merge.checkpoint import Checkpoint, TensorFiles, TensorInfo, header_of, is_head, read_json
from merge.errors import MergeError
from merge.formula import Leaf
from merge.operands import Inputs, Operand, Target, operand
from merge.tying import given_head, leave_out_originals
from merge.updates import DoraUpdate, LowRankUpdate, NoUpdate, SumOfUpdates, WholeUpdate

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.weight)?$"
)
_WRAPPER = re.compile(r"\.(?:modules_to_save|base_layer|original_module)(?=\.)")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()


@dataclass
class Adapter(TensorFiles):
    """A peft LoRA folder: its parts by the name of the tensor that they change.

    Raises MergeError for another kind of adapter, a missing or broken file, and a tensor whose meaning is unknown.
    """

    name: str
    folder: Path
    config: Mapping[str, Any] = field(init=False)
    tensors: Mapping[str, TensorInfo] = field(init=False)
    parts: dict[str, dict[str, str]] = field(init=False)
    """`parts[module]` maps lora_A, lora_B, ..., `whole` (a tensor that was saved whole) and `original` (what it was
    before) to tensors."""

    def __post_init__(self) -> None:
        super().__init__()
        self.config = read_json(self.folder / CONFIG)
        kind = self.config.get("peft_type")
        if kind != "LORA":
            raise MergeError(f"'{self.name}' is an adapter of type {kind!r}; only LoRA can be added to weights")
        path = self.folder / WEIGHTS
        if not path.exists():
            raise MergeError(f"'{self.folder}' holds {CONFIG} but no {WEIGHTS}")
        self.tensors = header_of(path)
        self.parts = {}
        for name in self.tensors:
            module, part = self._place(name)
            self.parts.setdefault(module, {})[part] = name

    def _place(self, name: str) -> tuple[str, str]:
        if not name.startswith(_PREFIX):
            raise MergeError(f"'{self.folder / WEIGHTS}' holds '{name}', which is not a peft adapter's tensor")
        short = name.removeprefix(_PREFIX)
        match = _PART.fullmatch(short)
        if match:
            return match["module"], match["part"]
        module = _WRAPPER.sub("", short).removesuffix(".weight")
        return module, "original" if ".original_module." in short else "whole"

    def scale(self, module: str, rank: int) -> float:
        """`alpha / r`, with rslora `alpha / sqrt(r)`; alpha may be given by pattern."""
        alpha = self.config.get("lora_alpha", rank)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        return alpha / rank**0.5 if self.config.get("use_rslora") else alpha / rank

    def tensor(self, module: str, part: str) -> torch.Tensor:
        """One part of a module's update in float32."""
        name = self.parts[module][part]
        tensor = torch.empty(self.tensors[name].shape, dtype=self.tensors[name].dtype)
        self.read(name, 0, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
        if not torch.isfinite(tensor).all():
            raise MergeError(f"'{self.name}' holds NaN or infinity in '{name}'; nothing was written")
        return tensor.float()

    def module_of(self, target: str) -> str | None:
        """The module whose weight the adapter changes, or None."""
        module = target.removesuffix(".weight")
        return module if module in self.parts else None

    def check(self, model: Checkpoint, head: str | None = None) -> None:
        """Raise MergeError for a part that fits no tensor of the model: another base, or another architecture.

        `head` is what the head is called that the adapter gives to a model whose head is its embedding.
        """
        for module, parts in self.parts.items():
            pair = any({f"{kind}_A", f"{kind}_B"} <= set(parts) for kind in ("lora", "lora_embedding"))
            if set(parts) != {"whole"} and not pair:
                raise MergeError(f"'{self.name}' holds only {', '.join(parts)} for '{module}'; the file is not whole")
            if "whole" in parts and "lora_magnitude_vector" in parts:
                raise MergeError(f"'{self.name}' holds DoRA and a copy of the layer for '{module}'; save it without")
            tensor = tensor_of(module)
            known = model.embedding if tensor == head else tensor
            if known not in model.tensors:
                raise MergeError(
                    f"'{self.name}' changes '{tensor}', which '{model.name}' does not have; nothing would use it"
                )
            shape = model.tensors[known].shape
            for own in self.shapes(module):
                if own not in (shape, shape[::-1]):
                    raise MergeError(
                        f"'{self.name}' changes '{tensor}' of shape {list(own)}, but in '{model.name}' it "
                        f"has shape {list(shape)}"
                    )

    def shapes(self, module: str) -> Iterator[tuple[int, ...]]:
        """The shapes of a module's updates."""
        parts = {part: self.tensors[name].shape for part, name in self.parts[module].items()}
        if "whole" in parts:
            yield parts["whole"]
        if "lora_embedding_A" in parts:
            yield parts["lora_embedding_A"][1], parts["lora_embedding_B"][0]
        elif "lora_B" in parts:
            yield parts["lora_B"][0], parts["lora_A"][1]


@dataclass(frozen=True)
class AdapterVector:
    """An adapter in a formula: makes the operand of its update for a tensor; `base` is the model that it changes.

    `head` is what the head is called that it gives to a base whose head is its embedding (see `merge.tying`).
    """

    adapter: Adapter
    base: str
    head: str | None = None

    def tensor(self, output: str, names: Mapping[str, str]) -> str:
        """What the adapter calls a tensor of the output; `names` are the models' names of it."""
        return self.head if self.head is not None and is_head(output) else names[self.base]

    def __call__(self, target: Target, inputs: Inputs) -> Operand:
        """The update of one tensor; nothing where the adapter leaves the tensor alone."""
        module = self.adapter.module_of(self.tensor(target.name, inputs.name_in))
        if module is None:
            return NoUpdate(target, inputs)
        parts = self.adapter.parts[module]
        updates: list[Operand] = []
        if "whole" in parts:
            updates.append(WholeUpdate(self.adapter, module, self.base, target, inputs))
        if set(parts) != {"whole"}:
            updates.append(self._low_rank(module, target, inputs))
        return updates[0] if len(updates) == 1 else SumOfUpdates(updates)

    def numbers(self, output: str, names: Mapping[str, str]) -> int:
        """How many numbers are held, as its factors, while a tensor of the output is made."""
        parts = self.adapter.parts.get(self.adapter.module_of(self.tensor(output, names)) or "", {})
        shapes = [self.adapter.tensors[name].shape for part, name in parts.items() if part != "whole"]
        return sum(torch.Size(shape).numel() for shape in shapes)

    def _low_rank(self, module: str, target: Target, inputs: Inputs) -> Operand:
        left, right = self._factors(module, target, inputs)
        if "lora_magnitude_vector" in self.adapter.parts[module]:
            magnitude = self.adapter.tensor(module, "lora_magnitude_vector")
            return DoraUpdate(left, right, magnitude.to(left.device), operand(Leaf(self.base), target, inputs), target)
        rows = inputs.sources[self.base] if target.by_token else None
        return LowRankUpdate(left, right, rows, target)

    def _factors(self, module: str, target: Target, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """`left [n, r]` and `right [r, c]` whose product is the update, the scale in `left`."""
        embedding = "lora_embedding_A" in self.adapter.parts[module]
        a = self.adapter.tensor(module, "lora_embedding_A" if embedding else "lora_A")
        b = self.adapter.tensor(module, "lora_embedding_B" if embedding else "lora_B")
        scale = self.adapter.scale(module, a.shape[0])
        transposed = embedding or bool(self.adapter.config.get("fan_in_fan_out"))
        left, right = (a.T, b.T) if transposed else (b, a)
        place = {"device": inputs.device, "dtype": inputs.accumulate}
        return (left * scale).to(**place).contiguous(), right.to(**place).contiguous()


def tensor_of(module: str) -> str:
    """The tensor that a module's update is added to; a bias is a module of its own."""
    return module if module.endswith(".bias") else f"{module}.weight"


def vector_of(adapter: Adapter, checkpoints: Mapping[str, Checkpoint], start: str) -> AdapterVector:
    """An adapter as a task vector of the model that its settings name, or else of the model that it is added to."""
    named = Path(adapter.config.get("base_model_name_or_path") or "")
    same = [n for n, model in checkpoints.items() if named.exists() and model.folder.resolve() == named.resolve()]
    return vector_on(adapter, checkpoints[same[0] if same else start])


def vector_on(adapter: Adapter, model: Checkpoint) -> AdapterVector:
    """An adapter as a task vector of a model. Raises MergeError where it does not fit."""
    leave_out_originals(adapter, model)
    head = given_head(adapter, model)
    adapter.check(model, head)
    return AdapterVector(adapter, model.name, head)


def check_used(vectors: Iterable[AdapterVector], names: Mapping[str, Mapping[str, str]]) -> None:
    """Raise MergeError for a part of an adapter that no tensor of the output takes up.

    `names[output][model]` are what models call the tensors of the output.
    """
    for vector in vectors:
        asked = {vector.tensor(output, found) for output, found in names.items() if vector.base in found}
        unused = [module for module in vector.adapter.parts if tensor_of(module) not in asked]
        if unused:
            raise MergeError(f"'{vector.adapter.name}' changes '{unused[0]}', but nothing in the merge takes that up")
