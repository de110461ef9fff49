"""The low-rank factors of all adapters beside one linear layer, stacked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt.errors import AdaptError


@dataclass(frozen=True)
class Factors:
    """One adapter's update of one linear layer, `scale * b @ a`, with `a [rank, in]` and `b [out, rank]`."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


class Block(nn.Module):
    """Some adapters' factors as two parameters, `a [R, in]` and `b [out, R]`, `R` the sum of their ranks.

    In memory b lies column by column, so that an adapter's part of it is in one piece, as that of a is.
    `owner [R]` is the stack's index of the adapter of each coordinate; `spans` maps that index to the coordinates.
    """

    owner: torch.Tensor

    def __init__(self, members: Mapping[int, Factors], size: tuple[int, int], trains: bool) -> None:
        super().__init__()
        inner, outer = size
        found = list(members.values())
        a = torch.cat([factor.a.detach() for factor in found]) if found else torch.zeros(0, inner)
        b = torch.cat([factor.b.detach().T for factor in found]).T if found else torch.zeros(outer, 0)
        self.a = nn.Parameter(a, requires_grad=trains)
        self.b = nn.Parameter(b, requires_grad=trains)
        self.spans: dict[int, tuple[int, int]] = {}
        begin = 0
        for index, factor in members.items():
            self.spans[index] = begin, begin + len(factor.a)
            begin += len(factor.a)
        owners = [index for index, (start, end) in self.spans.items() for _ in range(end - start)]
        self.register_buffer("owner", torch.tensor(owners, dtype=torch.long, device=a.device), persistent=False)


class Stack(nn.Module):
    """Factors of several adapters beside one layer: one block of those that are frozen, one of those that train.

    Apart, so that neither an optimiser's decay nor its moments reach an adapter that is frozen, and a mixture that
    trains as a whole or not at all is multiplied by its two matrices as they are. `scales [adapters]` stay float32
    whatever the module is cast to. An adapter without an update of this layer has no coordinate.
    """

    scales: torch.Tensor

    def __init__(
        self, factors: Mapping[str, Factors | None], size: tuple[int, int], trainable: Collection[str] = ()
    ) -> None:
        """`size` is (in, out) of the layer. The adapters train where `trainable` names them.

        Raises AdaptError for factors of another shape than the layer's, and for a name in `trainable` that is none of
        the adapters'.
        """
        super().__init__()
        unknown = sorted(set(trainable) - set(factors))
        if unknown:
            raise AdaptError(f"no adapter '{unknown[0]}' to train; there are {', '.join(factors) or 'none'}")
        for name, factor in factors.items():
            _check(name, factor, size)
        present = {i: factor for i, factor in enumerate(factors.values()) if factor is not None and len(factor.a)}
        self.names, self.size, self.trainable = tuple(factors), size, frozenset(trainable)
        self.ranks = tuple(len(present[i].a) if i in present else 0 for i in range(len(factors)))
        training = {i: factor for i, factor in present.items() if self.names[i] in self.trainable}
        frozen = {i: factor for i, factor in present.items() if i not in training}
        self.frozen = Block(frozen, size, False) if frozen or not training else None
        self.trained = Block(training, size, True) if training else None
        self._scales = tuple(0.0 if factor is None else float(factor.scale) for factor in factors.values())
        device = next(iter(present.values())).a.device if present else None
        self.register_buffer("scales", torch.tensor(self._scales, device=device), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Stack:
        super()._apply(fn, recurse)
        if self.scales.dtype != torch.float32:
            self.scales = torch.tensor(self._scales, device=self.scales.device)
        return self

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that hold a coordinate."""
        return tuple(block for block in (self.frozen, self.trained) if block is not None and block.spans)

    @property
    def a(self) -> torch.Tensor:
        """All `a [R, in]` in the order of `owner`: the parameter itself, or a copy where only some adapters train."""
        return self._whole("a", 0)

    @property
    def b(self) -> torch.Tensor:
        """All `b [out, R]` in the order of `owner`, likewise."""
        return self._whole("b", 1)

    @property
    def owner(self) -> torch.Tensor:
        """The adapter `[R]` of each coordinate of `a` and `b`."""
        return self._whole("owner", 0)

    def _whole(self, name: str, dim: int) -> torch.Tensor:
        parts = [getattr(block, name) for block in self.blocks or (self.frozen,)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def factors(self, name: str) -> Factors | None:
        """One adapter's factors as it has them now, or None where it has no update of this layer."""
        index = self.index(name)
        for block in self.blocks:
            if index in block.spans:
                span = slice(*block.spans[index])
                return Factors(block.a.detach()[span], block.b.detach()[:, span], self._scales[index])
        return None

    def index(self, name: str) -> int:
        """Where an adapter stands in the gates. Raises AdaptError where there is none of this name."""
        if name not in self.names:
            raise AdaptError(f"the mixture has no adapter '{name}'; it has {', '.join(self.names) or 'none'}")
        return self.names.index(name)

    def add(self, name: str, factors: Factors | None, train: bool = False) -> Stack:
        """A new stack with one more adapter behind the others. Raises AdaptError where the name is taken."""
        if name in self.names:
            raise AdaptError(f"the mixture already has an adapter '{name}'; give the new one another name")
        return Stack(self._all() | {name: factors}, self.size, self.trainable | ({name} if train else set()))

    def without(self, name: str) -> Stack:
        """A new stack without one adapter; those behind it move up by one."""
        self.index(name)
        rest = {other: factor for other, factor in self._all().items() if other != name}
        return Stack(rest, self.size, self.trainable - {name})

    def _all(self) -> dict[str, Factors | None]:
        return {name: self.factors(name) for name in self.names}


def _check(name: str, factor: Factors | None, size: tuple[int, int]) -> None:
    if factor is None:
        return
    (rank, inner), (outer, columns) = factor.a.shape, factor.b.shape
    if (inner, outer) != size or rank != columns:
        raise AdaptError(
            f"the adapter '{name}' has factors {list(factor.b.shape)} x {list(factor.a.shape)}, which is no update of "
            f"a layer with {size[0]} inputs and {size[1]} outputs; it was trained over another model"
        )
