"""The sums that an adapter can become: over the original base, over the one that 4 bits stand for, or corrected.

With `W` the weight on the disk, `Q` quantisation and `s B A` the trained update:

    original      W + s B A              what most tools write
    dequantised   Q^-1(Q(W)) + s B A     what was trained
    corrected     W + s B A + E_k        `E_k` the best rank-k part of `Q^-1(Q(W)) - W`, a part of the update
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import AdaptError
from adapt.export.nf4 import Nf4Base
from adapt.export.rows import WithRows, check_rows, read_rows
from merge.planning import Merge, dtype_of, prepare

if TYPE_CHECKING:
    from adapt.export.source import Source

MODEL, BASE, ADAPTER = "model", "base", "adapter"


def plain(source: Source, dtype: str | None) -> Merge:
    """The model as it is, in another format."""
    return prepare(MODEL, {MODEL: source.model}, dtype_of(dtype) if dtype else None)


def original(source: Source, dtype: str | None, adapter: Path | None = None) -> Merge:
    """The base on the disk with the adapter added (`adapter`: another one than the source's) and its rows put in."""
    folders = {BASE: _given(source.base), ADAPTER: adapter or _given(source.adapter)}
    merge = prepare(f"{BASE} + {ADAPTER}", folders, dtype_of(dtype) if dtype else None)
    rows = read_rows(_given(source.adapter))
    if rows is None:
        return merge
    check_rows(rows, {output.name: output.shape for output in merge.outputs}, _given(source.adapter))
    return replace(merge, adapters={ADAPTER: WithRows(merge.adapters[ADAPTER], rows)})


def dequantised(source: Source, dtype: str | None, names: Collection[str]) -> Merge:
    """The same over the base whose weights `names` are read as 4 bits hold them."""
    merge, precision = original(source, dtype), source.precision
    if precision is None:
        raise AdaptError(f"'{source.name}' has no adapter")
    base = Nf4Base(merge.anchor, frozenset(names), precision.dtype, precision.device)
    return replace(merge, adapters={**merge.adapters, BASE: base})


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise AdaptError("there is no adapter to export")
    return folder
