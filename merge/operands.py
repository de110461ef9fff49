"""A formula at work on one tensor: every part of it gives any rows that it is asked for, in float32.

A tensor `[n, ...]` is read as rows `[n, c]` (a vector is one row; of matrices with a row for each token, rows are
looked up by token). What is needed of a whole tensor, such as a norm, is taken in a pass of its own before the first
rows are given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from merge.checkpoint import Checkpoint
from merge.device import CPU, Inlet, block_size
from merge.errors import MergeError
from merge.formula import Call, Formula, Leaf, Linear, leaves
from merge.hashes import Hashes, Running
from merge.lacking import fill, take_over
from merge.methods import METHODS
from merge.methods.base import Block, Values
from merge.parameters import Place, value_at
from merge.random import uniform


@dataclass(frozen=True)
class Target:
    """A tensor of the output: `height` rows of `width` elements; `by_token` if each row belongs to a token.

    A `block` of so many elements of each input is held at once (a row at least).
    """

    name: str
    height: int
    width: int
    place: Place
    by_token: bool = False
    block: int = block_size(CPU)

    @property
    def step(self) -> int:
        """Rows of a block."""
        return max(1, self.block // max(1, self.width))

    def cuts(self) -> Iterator[tuple[int, int]]:
        """First row and the row after the last of each block."""
        for first in range(0, self.height, self.step):
            yield first, min(first + self.step, self.height)


@dataclass
class Inputs:
    """What formulas are read from: checkpoints by name, and for each the row that holds each token of the output.

    `name_in[model]` is what a model calls the tensor (its input embedding stands for a head that is tied to it),
    `special[name]` makes the operands of names that are no models (adapters, saved task vectors). Rows are on `device`.
    """

    checkpoints: Mapping[str, Checkpoint]
    sources: Mapping[str, torch.Tensor]
    name_in: Mapping[str, str]
    accumulate: torch.dtype = torch.float32
    hashes: Hashes = field(default_factory=Hashes)
    special: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = CPU


class Operand(ABC):
    """A part of a formula, for one tensor."""

    target: Target

    @abstractmethod
    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows `[last - first, width]`; the caller's own until it asks again."""

    def known(self, first: int, last: int) -> torch.Tensor | None:
        """Which of the rows there are, `[last - first]`; None for all of them."""
        return None

    def add_to(self, total: torch.Tensor, weight: float, first: int, last: int) -> None:
        """`total += weight * rows`."""
        total.add_(self.rows(first, last), alpha=weight)


class LeafOperand(Operand):
    """A tensor of a checkpoint, read from its file block by block; hashed on the way if it is read in order."""

    def __init__(self, name: str, target: Target, inputs: Inputs) -> None:
        self.target, self.model = target, inputs.checkpoints[name]
        self.tensor = inputs.name_in[name]
        info = self.model.tensors[self.tensor]
        self.wanted = inputs.sources[name].numpy() if target.by_token else None
        self.complete = self.wanted is None or bool((self.wanted >= 0).all())
        count = min(target.step, target.height) * target.width
        own = self.tensor == target.name  # a tied embedding may be read as a head by another thread just now
        self.hash = inputs.hashes.of(name, self.tensor, info.size) if own else Running(info.size)
        self.device = inputs.device
        self.inlet = Inlet(count, info.dtype, inputs.accumulate, inputs.device)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The rows, converted; rows of tokens that the model lacks are zero."""
        count = (last - first) * self.target.width
        size = self.target.width * self.inlet.raw.dtype.itemsize
        memory = self.inlet.bytes()
        if self.wanted is None:
            self._read(first * size, memory[: (last - first) * size])
        else:
            self._gather(self.wanted[first:last], size, memory)
        return self.inlet.values(count).view(last - first, self.target.width)

    def _read(self, place: int, part: memoryview) -> None:
        self.model.read(self.tensor, place, part)
        self.hash.update(place, part)

    def _gather(self, rows: np.ndarray, size: int, memory: memoryview) -> None:
        """Runs of rows that stand behind each other in the file are read at once; lacking ones are zero."""
        before, behind = rows[:-1], rows[1:]
        ends = np.flatnonzero(np.where(before < 0, behind >= 0, behind != before + 1)) + 1
        begin = 0
        for end in (*ends.tolist(), len(rows)):
            if rows[begin] >= 0:
                self._read(int(rows[begin]) * size, memory[begin * size : end * size])
            else:
                self.inlet.raw[begin * self.target.width : end * self.target.width].zero_()
            begin = end

    def known(self, first: int, last: int) -> torch.Tensor | None:
        """Rows whose token the model has."""
        if self.complete:
            return None
        found = self.wanted[first:last] >= 0
        return None if found.all() else torch.from_numpy(found).to(self.device)


class LinearOperand(Operand):
    """`start + sum_i w_i (a_i - b_i)`; a difference counts only in rows that both of its sides have."""

    def __init__(self, formula: Linear, target: Target, inputs: Inputs) -> None:
        self.target = target
        self.dtype, self.device = inputs.accumulate, inputs.device
        self.start = None if formula.start is None else operand(formula.start, target, inputs)
        self.differences = [
            (
                difference.weight,
                operand(difference.minuend, target, inputs),
                None if difference.subtrahend is None else operand(difference.subtrahend, target, inputs),
            )
            for difference in formula.differences
        ]

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Differences are taken before they are weighted; nothing is rounded in between."""
        if self.start is None:
            total = torch.zeros(last - first, self.target.width, dtype=self.dtype, device=self.device)
        else:
            total = self.start.rows(first, last)
        for weight, minuend, subtrahend in self.differences:
            if subtrahend is None:
                minuend.add_to(total, weight, first, last)
                continue
            difference = minuend.rows(first, last).sub_(subtrahend.rows(first, last))
            known = both(minuend.known(first, last), subtrahend.known(first, last))
            if known is not None:
                difference.mul_(known.unsqueeze(1))
            total.add_(difference, alpha=weight)
        return total

    def known(self, first: int, last: int) -> torch.Tensor | None:
        """Rows that the start has."""
        return None if self.start is None else self.start.known(first, last)


class CallOperand(Operand):
    """A method; a row that an input lacks is the base's there, a row that the base lacks is the first model's."""

    def __init__(self, call: Call, target: Target, inputs: Inputs) -> None:
        self.target, self.seed = target, call.seed
        self.method = METHODS[call.method]()
        plain = replace(inputs, accumulate=torch.float32)
        self.models = [operand(model, target, plain) for model in call.models]
        self.base = None if call.base is None else operand(call.base, target, plain)
        self.labels = _labels(call.models)
        self.values = values_of(call, target.place)
        self.accumulate, self.device = inputs.accumulate, inputs.device
        self.checked = 0  # rows before this one hold numbers; later passes need not look

    @cached_property
    def summary(self) -> Any:
        """What the method knows of the whole tensor."""
        try:
            return self.method.summarise(self._blocks, self.values, (self.target.height, self.target.width))
        except MergeError as error:
            raise MergeError(f"'{self.target.name}' by {self.method.name}: {error}") from error

    def rows(self, first: int, last: int) -> torch.Tensor:
        """The method's result."""
        summary = self.summary
        result = self.method.combine(self._block(first, last), self.values, summary)
        parts = (*self.models, *([self.base] if self.base else []))
        known = [part.known(first, last) for part in parts]
        take_over(result, known, known[-1] if self.base else None, [partial(part.rows, first, last) for part in parts])
        return result.to(self.accumulate)

    def known(self, first: int, last: int) -> torch.Tensor | None:
        """Rows that any of the models has."""
        masks = [part.known(first, last) for part in (*self.models, *([self.base] if self.base else []))]
        if any(mask is None for mask in masks):
            return None
        return torch.stack(masks).any(0)

    def _blocks(self) -> Iterator[Block]:
        for first, last in self.target.cuts():
            yield self._block(first, last)

    def _block(self, first: int, last: int) -> Block:
        inputs = [model.rows(first, last) for model in self.models]
        base = None if self.base is None else self.base.rows(first, last)
        if last > self.checked:
            for part, values in zip((*self.models, self.base), (*inputs, base), strict=True):
                if values is not None and not math.isfinite(float(values.sum())):
                    raise _not_finite(part, values, self.target)
            self.checked = last if first <= self.checked else self.checked
        base_known = None if self.base is None else self.base.known(first, last)
        fill(inputs, base, [model.known(first, last) for model in self.models], base_known)
        shape = (self.target.height, self.target.width)

        def draw(index: int) -> torch.Tensor:
            start, count = first * self.target.width, (last - first) * self.target.width
            key = (self.seed, *self.labels[index], self.target.name)
            return uniform(key, start, count, self.device).view(last - first, -1)

        return Block(inputs, base, first, shape, draw)


def values_of(call: Call, place: Place) -> Values:
    """The parameters of a call for one tensor."""
    return Values(
        {name: value_at(setting, place) for name, setting in call.common},
        {name: [value_at(setting, place) for setting in settings] for name, settings in call.each},
    )


def _labels(models: tuple[Formula, ...]) -> list[tuple[str, int]]:
    """What each input's random numbers are keyed by: its models, and how often they came before."""
    seen: Counter[str] = Counter()
    labels = []
    for model in models:
        text = "+".join(leaves(model))
        labels.append((text, seen[text]))
        seen[text] += 1
    return labels


def both(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    """Rows that two parts have; None for all."""
    if left is None or right is None:
        return right if left is None else left
    return left & right


def _not_finite(part: Operand | None, values: torch.Tensor, target: Target) -> MergeError:
    name = part.model.name if isinstance(part, LeafOperand) else "a part of the formula"
    if bool(torch.isfinite(values).all()):
        return MergeError(f"the values of '{target.name}' in '{name}' are too large to be summed")
    return MergeError(f"'{name}' holds NaN or infinity in '{target.name}'; nothing was written")


def operand(formula: Formula, target: Target, inputs: Inputs) -> Operand:
    """A formula at work on a tensor."""
    if isinstance(formula, Leaf):
        if formula.name in inputs.special:
            return inputs.special[formula.name](target, inputs)
        return LeafOperand(formula.name, target, inputs)
    if isinstance(formula, Linear):
        return LinearOperand(formula, target, inputs)
    return CallOperand(formula, target, inputs)
