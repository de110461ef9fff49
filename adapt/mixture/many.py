"""Many adapters in one batch: each row names its own, all are computed together (S-LoRA, Sheng et al., 2311.03285).

    many = ManyAdapters(model, budget=2 << 30)
    many.register("law", "adapters/law")                     # a peft folder; thousands may be registered
    with many.using(["law", "medicine", None, "law"]):       # one name per row of the batch; None: the base alone
        model.generate(**batch)

A registered adapter is a folder whose header is known; its tensors are read when a batch asks for it. What was used
last stays on the device, up to `budget` bytes together with what the batch at work needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapt.checkpoints import ModelLocation
from adapt.errors import AdaptError
from adapt.mixture.adapters import read_factors, read_part
from adapt.mixture.bases import Base
from adapt.mixture.pool import Pool
from adapt.mixture.stack import Factors


@dataclass(frozen=True)
class Layout:
    """How a batch's rows are laid out for batched products: `lines` of `height` rows, each of one adapter.

    `lines [m]` holds the adapter of each; one with many rows has several, so that at most twice as many rows and one
    more per line are computed as there are. `source [m * height]` are the rows of the batch (row 0 where a line is
    not full), `place [rows]` the way back. Both are None where every row is a line and rows are in order.
    """

    lines: tuple[str | None, ...]
    height: int
    source: torch.Tensor | None = None
    place: torch.Tensor | None = None

    @classmethod
    def of(cls, names: Sequence[str | None], device: torch.device) -> Layout:
        """The layout of a batch whose rows name these adapters."""
        counts = Counter(names)
        height = -(-len(names) // len(counts))
        if height == 1:
            return cls(tuple(names), 1)
        begins: dict[str | None, int] = {}
        lines: list[str | None] = []
        for name, count in counts.items():
            begins[name] = len(lines) * height
            lines += [name] * -(-count // height)
        place = []
        for name in names:
            place.append(begins[name])
            begins[name] += 1
        source = torch.zeros(len(lines) * height, dtype=torch.long)
        source[torch.tensor(place)] = torch.arange(len(names))
        return cls(tuple(lines), height, source.to(device), torch.tensor(place, device=device))


@dataclass(frozen=True)
class _Batch:
    """The batch at work: its layout, and per module `a [lines, rank, in]` and `b [lines, rank, out]`, scaled."""

    names: tuple[str | None, ...]
    layout: Layout
    stacks: dict[str, tuple[torch.Tensor, torch.Tensor]]


class ManyAdapters:
    """Adapters of one model, thousands of them, of which every row of a batch takes its own.

    The model keeps its modules; each linear layer that an adapter changes has a hook that adds `s B A x` to its
    output. For inference: nothing here trains. Ranks and targets may differ; a batch is padded to its largest rank.
    """

    def __init__(self, model: Any, budget: int, base: str | Path | None = None) -> None:
        """`budget` in bytes on the model's device. `base`: where the model was loaded from, if its config is silent."""
        path = str(base or getattr(model.config, "_name_or_path", "") or "")
        if not path:
            raise AdaptError("the model does not say where it was loaded from; give `base`, its folder or hub id")
        self.model, self._base = model, Base.of(ModelLocation(path))
        self._folders: dict[str, Path] = {}
        self._sizes: dict[str, dict[str, tuple[int, int, int]]] = {}
        self._modules: dict[str, nn.Module] = {}
        self._hooks: list[Any] = []
        self._batch: _Batch | None = None
        self._last: _Batch | None = None
        self.pool = Pool(self._load, budget)

    @property
    def names(self) -> tuple[str, ...]:
        """All registered adapters."""
        return tuple(self._folders)

    def register(self, name: str, folder: str | Path) -> None:
        """Make a peft folder known by a name. Its tensors are checked now and read again when a batch asks for them.

        Raises AdaptError for a name that is taken, and for an adapter of another base, of other shapes or of another
        kind than LoRA on linear layers.
        """
        if name in self._folders:
            raise AdaptError(f"an adapter '{name}' is registered already, from '{self._folders[name]}'")
        factors = read_part(name, folder, self.model, self._base).factors
        self._folders[name] = Path(folder)
        self._sizes[name] = {path: (*own.a.shape, len(own.b)) for path, own in factors.items()}
        for path in factors.keys() - self._modules.keys():
            self._modules[path] = module = self.model.get_submodule(path)
            self._hooks.append(module.register_forward_hook(partial(self._add, path)))

    def unregister(self, name: str) -> None:
        """Forget an adapter. Raises AdaptError where there is none of this name."""
        self._check([name])
        self.pool.forget(name)
        self._last = None
        del self._folders[name], self._sizes[name]

    def close(self) -> None:
        """Take the hooks off the model and forget all adapters."""
        for hook in self._hooks:
            hook.remove()
        self.pool.shrink(0)
        self._last = None
        self._hooks, self._modules, self._folders, self._sizes = [], {}, {}, {}

    @contextmanager
    def using(self, names: Sequence[str | None]) -> Iterator[None]:
        """Let row `i` of every batch inside take the adapter `names[i]`, or none.

        A batch may have a multiple of these rows, as beams and several answers to a prompt make it. What it needs is
        kept until another batch begins. Raises AdaptError for an unknown name and for adapters that do not fit into
        the budget together.
        """
        if not names:
            raise AdaptError("name one adapter per row of the batch, or None for the base alone")
        if self._batch is not None:
            raise AdaptError("a batch with adapters is at work already; leave its `using` first")
        self._check(names)
        if self._last is None or self._last.names != tuple(names):
            layout, self._last = Layout.of(names, self.model.device), None
            self._last = _Batch(tuple(names), layout, self._stacks(layout))
        self._batch = self._last
        try:
            yield
        finally:
            self._batch = None

    def _check(self, names: Sequence[str | None]) -> None:
        for name in names:
            if name is not None and name not in self._folders:
                raise AdaptError(f"no adapter '{name}' is registered; {len(self._folders)} are")

    def _load(self, name: str) -> dict[str, Factors]:
        """An adapter on its layers' devices in the model's type, its scale multiplied into `b` in float32."""
        found = {}
        for path, own in read_factors(name, self._folders[name], self.model).items():
            device = next(self._modules[path].parameters()).device
            a, b = own.a.to(device, self.model.dtype), (own.b * own.scale).T.to(device, self.model.dtype)
            found[path] = Factors(a, b.contiguous().T, 1.0)
        return found

    def _stacks(self, layout: Layout) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        shapes = self._shapes(layout)
        element = self.model.dtype.itemsize
        needed = sum(lines * rank * (inner + outer) * element for lines, rank, inner, outer in shapes.values())
        if needed > self.pool.budget:
            raise AdaptError(
                f"the adapters of this batch take {needed / 1e6:.1f} MB, more than the budget of "
                f"{self.pool.budget / 1e6:.1f} MB; give a larger budget or fewer adapters in one batch"
            )
        self.pool.shrink(self.pool.budget - needed)
        stacks = {}
        for path, (lines, rank, inner, outer) in shapes.items():
            like = next(self._modules[path].parameters())
            made = [
                torch.zeros(lines, rank, width, device=like.device, dtype=self.model.dtype) for width in (inner, outer)
            ]
            stacks[path] = made[0], made[1]
        where: dict[str, list[int]] = {}
        for line, name in enumerate(layout.lines):
            if name is not None:
                where.setdefault(name, []).append(line)
        for name, lines in where.items():
            for path, own in self.pool.get(name, self.pool.budget - needed).items():
                a, b = stacks[path]
                for line in lines:
                    a[line, : len(own.a)] = own.a
                    b[line, : len(own.a)] = own.b.T
        return stacks

    def _shapes(self, layout: Layout) -> dict[str, tuple[int, int, int, int]]:
        """Lines, largest rank, inputs and outputs of each module that an adapter of the batch changes."""
        shapes: dict[str, tuple[int, int, int, int]] = {}
        for name in set(layout.lines) - {None}:
            for path, (rank, inner, outer) in self._sizes[name].items():
                rank = max(rank, shapes[path][1]) if path in shapes else rank
                shapes[path] = len(layout.lines), rank, inner, outer
        return shapes

    def _add(self, path: str, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        if self._batch is None or path not in self._batch.stacks:
            return None
        found, count = inputs[0], len(self._batch.names)
        if found.dim() != 3 or len(found) % count:
            raise AdaptError(
                f"'{path}' has an input of shape {list(found.shape)}, but `using` named adapters for {count} rows"
            )
        rows = found.reshape(count, -1, found.shape[-1]), output.reshape(count, -1, output.shape[-1])
        return add_rows(*rows, self._batch.layout, *self._batch.stacks[path]).view_as(output)


def add_rows(
    inputs: torch.Tensor, output: torch.Tensor, layout: Layout, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """`y_i + B_i A_i x_i` for rows `x [rows, length, in]` and `y [rows, length, out]`, y overwritten where nothing is
    differentiated; `a [lines, rank, in]`, `b [lines, rank, out]`.
    """
    found = inputs.to(a.dtype)
    if layout.source is not None:
        found = found.index_select(0, layout.source.to(inputs.device)).view(len(layout.lines), -1, inputs.shape[2])
    hidden = torch.bmm(found, a.transpose(1, 2))
    inplace = not (torch.is_grad_enabled() and (output.requires_grad or hidden.requires_grad))
    if layout.place is None and output.dtype == b.dtype and inplace:
        return output.baddbmm_(hidden, b)  # no update is made apart: fresh memory costs more than the product
    update = torch.bmm(hidden, b)
    if layout.place is not None:
        update = update.view(-1, *output.shape[1:]).index_select(0, layout.place.to(inputs.device))
    return output.add_(update) if inplace else output + update.to(output.dtype)
