"""What a way to combine models is.

A method sees one tensor at a time and never holds it whole. It may first go over the tensor's blocks to take
statistics (`summarise`), and is then asked for the result block by block (`combine`). Blocks are whole rows, so what
is defined for each row (a ranking, a norm) needs no pass of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

REQUIRED = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """A number, a switch or a word that a method takes: its range and, where it may be left out, its value.

    `each` tells a parameter that every input has for itself (a weight) from one of the whole method.
    `doc` is one sentence for `adapt merge methods` and the documentation.
    """

    name: str
    doc: str
    default: Any = REQUIRED
    each: bool = False
    kind: type = float
    low: float | None = None
    high: float | None = None
    above: float | None = None
    """An open lower bound."""

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Values:
    """The parameters' values for one tensor: `common` by name, `each` by name with one value an input."""

    common: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.each[name] if name in self.each else self.common[name]


@dataclass
class Block:
    """The same rows of one tensor as every model has them.

    `inputs` and `base` are float32 `[n, c]` (of a tensor of shape `[m, ...]`, c is the product of all but the first
    size; a vector `[c]` is one row) and the method's own: it may overwrite them. `first` is the index of the first
    row, `shape` that of the whole tensor. `uniform(i)` draws float32 `[n, c]` in [0, 1) for input i: the same numbers
    for the same element however the tensor is cut, whichever thread asks and whatever other tensors there are.
    """

    inputs: list[torch.Tensor]
    base: torch.Tensor | None
    first: int
    shape: tuple[int, ...]
    uniform: Callable[[int], torch.Tensor]

    @property
    def rows(self) -> int:
        """Rows of this block."""
        return self.inputs[0].shape[0]

    def differences(self) -> list[torch.Tensor]:
        """The task vectors `input - base`, in place of the inputs."""
        return [tensor.sub_(self.base) for tensor in self.inputs]


Blocks = Callable[[], Iterator[Block]]
"""Each call begins a new pass over the tensor, from its first row to its last."""


class Method(ABC):
    """Base of all methods. One file each; `merge.methods.METHODS` is the table.

    `base` says whether a base model must, may or cannot be given; `arguments` is the order in which an expression
    gives models: `("base", "models")` reads `ties(base, [a: 1, b: 0.5])`. `count` are the fewest and most models
    beside the base (None: any number). `random` marks methods that draw numbers, and so take a seed.
    """

    name: ClassVar[str]
    base: ClassVar[Literal["required", "optional", "none"]] = "none"
    arguments: ClassVar[tuple[str, ...]] = ("models",)
    count: ClassVar[tuple[int, int | None]] = (1, None)
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    random: ClassVar[bool] = False
    ancestor: ClassVar[bool] = True
    """Whether the base is what the models were trained from, rather than one of the models that are mixed."""

    def check(self, values: Values) -> None:
        """Raise MergeError, beginning with the method's name, for values that do not go together."""
        return None

    def summarise(self, blocks: Blocks, values: Values, shape: tuple[int, ...]) -> Any:
        """What must be known of the whole tensor before its first block can be made; nothing by default."""
        return None

    @abstractmethod
    def combine(self, block: Block, values: Values, summary: Any) -> torch.Tensor:
        """The result for a block, float32 `[n, c]`. Each element depends on nothing but its row and the summary."""


def elements(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape."""
    return torch.Size(shape).numel()
