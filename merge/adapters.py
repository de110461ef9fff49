"""LoRA adapters (peft folders) as low-rank task vectors: `base + 0.7 * lora_a + 0.3 * lora_b`.

The update `s B A` of a matrix is computed for the rows of a block alone and added to the sum; it is never there for a
whole matrix, let alone a model. Two adapters are added exactly, as `s_1 w_1 B_1 A_1 + s_2 w_2 B_2 A_2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from merge.checkpoint import Checkpoint, TensorFiles, TensorInfo, header_of, read_json
from merge.errors import MergeError
from merge.formula import Leaf
from merge.operands import Inputs, Operand, Target, operand

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.weight)?$"
)


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
    """`parts[module]` maps lora_A, lora_B, ... or `whole` (a tensor that was trained and saved whole) to tensors."""

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
        return short.replace(".modules_to_save", "").removesuffix(".weight"), "whole"

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
        return module if target.endswith(".weight") and module in self.parts else None

    def check(self, model: Checkpoint) -> None:
        """Raise MergeError for a part that fits no tensor of the model: another base, or another architecture."""
        for module, parts in self.parts.items():
            pair = any({f"{kind}_A", f"{kind}_B"} <= set(parts) for kind in ("lora", "lora_embedding"))
            if "whole" not in parts and not pair:
                raise MergeError(f"'{self.name}' holds only {', '.join(parts)} for '{module}'; the file is not whole")
            tensor = f"{module}.weight"
            if tensor not in model.tensors:
                raise MergeError(
                    f"'{self.name}' changes '{tensor}', which '{model.name}' does not have; nothing would use it"
                )
            shape = model.tensors[tensor].shape
            if self.shape(module) not in (shape, shape[::-1]):
                raise MergeError(
                    f"'{self.name}' changes '{tensor}' of shape {list(self.shape(module))}, but in '{model.name}' it "
                    f"has shape {list(shape)}"
                )

    def shape(self, module: str) -> tuple[int, ...]:
        """The shape of a module's update."""
        parts = {part: self.tensors[name].shape for part, name in self.parts[module].items()}
        if "whole" in parts:
            return parts["whole"]
        if "lora_embedding_A" in parts:
            return parts["lora_embedding_A"][1], parts["lora_embedding_B"][0]
        return parts["lora_B"][0], parts["lora_A"][1]


@dataclass(frozen=True)
class AdapterVector:
    """An adapter in a formula: makes the operand of its update for a tensor; `base` is the model that it changes."""

    adapter: Adapter
    base: str

    def __call__(self, target: Target, inputs: Inputs) -> Operand:
        """The update of one tensor; nothing where the adapter leaves the tensor alone."""
        tensor = inputs.name_in[self.base]
        module = self.adapter.module_of(tensor)
        if module is None:
            return NoUpdate(target, inputs)
        parts = self.adapter.parts[module]
        if "whole" in parts:
            return WholeUpdate(self.adapter, module, self.base, target, inputs)
        left, right = self._factors(module, target, inputs)
        if "lora_magnitude_vector" in parts:
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


class NoUpdate(Operand):
    """Zero, everywhere."""

    def __init__(self, target: Target, inputs: Inputs) -> None:
        self.target, self.dtype, self.device = target, inputs.accumulate, inputs.device

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(last - first, self.target.width, dtype=self.dtype, device=self.device)

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """Nothing is added."""


class LowRankUpdate(Operand):
    """`left[rows] right`, with `left [n, r]` and `right [r, c]`."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor, rows: torch.Tensor | None, target: Target) -> None:
        self.target, self.left, self.right, self.wanted = target, left, right, rows

    def _left(self, first: int, last: int) -> torch.Tensor:
        if self.wanted is None:
            return self.left[first:last]
        rows = self.wanted[first:last].to(self.left.device)
        return self.left[rows.clamp(min=0)] * (rows >= 0).unsqueeze(1)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the product."""
        return self._left(first, last) @ self.right

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """One matrix product into the sum."""
        total.addmm_(self._left(first, last), self.right, alpha=weight)


class DoraUpdate(Operand):
    """`m (W + s B A) / |W + s B A| - W`, the norm along each row (Liu et al. 2024, arXiv 2402.09353)."""

    def __init__(
        self, left: torch.Tensor, right: torch.Tensor, magnitude: torch.Tensor, base: Operand, target: Target
    ) -> None:
        self.target, self.left, self.right, self.base = target, left, right, base
        self.magnitude = magnitude.reshape(-1).to(left.dtype)
        if len(self.magnitude) != target.height:
            raise MergeError(f"the DoRA magnitudes of '{target.name}' are {len(self.magnitude)}, not {target.height}")

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the update."""
        weight = self.base.rows(first, last)
        moved = torch.addmm(weight, self.left[first:last], self.right)
        size = self.magnitude[first:last] / moved.norm(dim=1)
        return moved.mul_(size.unsqueeze(1)).sub_(weight)


class WholeUpdate(Operand):
    """A tensor that was trained and saved whole, less the base's."""

    def __init__(self, adapter: Adapter, module: str, base: str, target: Target, inputs: Inputs) -> None:
        self.target = target
        self.base = operand(Leaf(base), target, inputs)
        tensor = adapter.tensor(module, "whole").to(device=inputs.device, dtype=inputs.accumulate)
        self.saved = tensor.reshape(tensor.shape[0] if target.height > 1 else 1, -1)
        self.wanted = inputs.sources[base] if target.by_token else None

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows of the difference; none for tokens that the adapter's base lacks."""
        if self.wanted is None:
            return self.saved[first:last] - self.base.rows(first, last)
        rows = self.wanted[first:last].to(self.saved.device)
        difference = self.saved[rows.clamp(min=0)] - self.base.rows(first, last)
        return difference.mul_((rows >= 0).unsqueeze(1))


def vector_of(adapter: Adapter, checkpoints: Mapping[str, Checkpoint], start: str) -> AdapterVector:
    """An adapter as a task vector of the model that its settings name, or else of the model that it is added to."""
    named = Path(adapter.config.get("base_model_name_or_path") or "")
    same = [n for n, model in checkpoints.items() if named.exists() and model.folder.resolve() == named.resolve()]
    base = same[0] if same else start
    adapter.check(checkpoints[base])
    return AdapterVector(adapter, base)


def check_used(vectors: Iterable[AdapterVector], names: Mapping[str, Mapping[str, str]]) -> None:
    """Raise MergeError for a part of an adapter that no tensor of the output takes up.

    `names[output][model]` are what models call the tensors of the output.
    """
    for vector in vectors:
        asked = {found.get(vector.base) for found in names.values()}
        unused = [module for module in vector.adapter.parts if f"{module}.weight" not in asked]
        if unused:
            raise MergeError(f"'{vector.adapter.name}' changes '{unused[0]}', but nothing in the merge takes that up")
