"""Random choices of units as pure functions of words: the same on every machine, whatever else draws numbers.

Each candidate gets the BLAKE2 digest of the words of the draw and of its own name; those with the smallest digests are
chosen. The order of the candidates does not matter, and one layer more changes nothing in the others.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from typing import Literal

from adapt.methods.selection.units import Unit

Granularity = Literal["category", "parameters", "layer", "matrix"]


def choose(names: Iterable[str], count: int, *words: object) -> set[str]:
    """`count` of the names, drawn without replacement; a function of the names and of `words` alone."""
    draw = "/".join(map(str, words))
    return set(sorted(names, key=lambda name: blake2b(f"{draw}/{name}".encode(), digest_size=16).digest())[:count])


def nearest(value: float) -> int:
    """The nearest whole number, halves upwards; what floats add to a half does not decide."""
    return math.floor(round(value, 9) + 0.5)


def per_layer(units: Iterable[Unit], ratio: float, group_of: Callable[[Unit], Hashable], *words: object) -> list[Unit]:
    """The same share of each group in every layer, drawn layer by layer.

    Of k units of a group in a layer, `k ratio` train. Where that is no whole number the next larger one of them train
    in some layers, drawn at random, and the next smaller one in the others, so that the mean over the layers is right:
    at a half, two of three in one half of the layers and one of three in the other.
    """
    layers: dict[Hashable, dict[str, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        layers[group_of(unit)][unit.block].append(unit)
    chosen: list[Unit] = []
    for group, blocks in layers.items():
        heights = {len(members) for members in blocks.values()}
        for height in sorted(heights):
            alike = [block for block, members in blocks.items() if len(members) == height]
            whole = math.floor(round(height * ratio, 9))
            more = choose(alike, nearest((height * ratio - whole) * len(alike)), *words, group, height, "layers")
            for block in alike:
                names = choose([unit.name for unit in blocks[block]], whole + (block in more), *words, group)
                chosen += [unit for unit in blocks[block] if unit.name in names]
    return chosen


def drawn(units: Iterable[Unit], ratio: float, granularity: Granularity, *words: object) -> list[Unit]:
    """The units of the blocks that train: a share `ratio`, drawn at a granularity.

    `category`: of each layer's attention matrices, feed-forward matrices and norms alike (Hui et al. 2025, "HFT: Half
    Fine-Tuning for Large Language Models", arXiv 2404.18466). `parameters`: the same, but drawn among units of the same
    size, so that the share holds for numbers as well where keys and values are small (grouped-query attention).
    `layer`: whole layers. `matrix`: any units.
    """
    inside = [unit for unit in units if unit.layer is not None]
    if granularity == "category":
        return per_layer(inside, ratio, lambda unit: unit.category, *words)
    if granularity == "parameters":
        return per_layer(inside, ratio, lambda unit: f"{unit.category} {unit.size}", *words)
    if granularity == "layer":
        blocks = {unit.block for unit in inside}
        kept = choose(blocks, nearest(ratio * len(blocks)), *words, "layer")
        return [unit for unit in inside if unit.block in kept]
    names = choose([unit.name for unit in inside], nearest(ratio * len(inside)), *words, "matrix")
    return [unit for unit in inside if unit.name in names]
